"""The contract between a loss and the run that calls it."""
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor, nn


class DistillationLoss(nn.Module):
    """Base class of the losses. It declares what a loss needs.

    ``forward(student, teacher, *, label=None, weight=None, image=None)``
    returns a scalar. Of the keywords a loss takes those that its attributes
    declare, and the run passes these alone. ``student`` and ``teacher`` are
    maps (N, C, H, W) of one level. The rules for every loss:

    - It knows no model, and neither mmengine nor a registry.
    - It detaches the teacher, unless both sides learn (MixSKD).
    - It computes in float32 or better, also under autocast.
    - Its value does not depend on the batch size or the size of the map.
      Where a published form does, the docstring says how.
    - What weighs 0 takes no part.

    A loss with parameters gets one copy for each level. They are trained
    along with the student, except those of a discriminator. Buffers, such as
    a memory of earlier batches, are saved and resumed with them. A loss in
    eval mode remembers nothing: so the run calls it before training.

    Attributes:
        channels (str): What the channels of the two maps must be.
            ``'classes'``: scores of the same classes. ``'equal'``: equally
            many, whatever they mean. ``'adapt'``: equally many; where they
            differ, the run puts a 1x1 convolution behind the student's map.
            ``'any'``: they may differ. ``'distributions'``: the bins of box
            sides, with what else the sources give behind them.
        sizes (str): ``'equal'``: the run resizes the teacher's map to the
            student's. ``'any'``: the maps come as they are.
        level_reduction (str): ``'mean'`` or ``'sum'`` of the values of all
            pairs of levels. By the mean one weight serves one level and the
            five of a detector.
        levels_together (bool): ``forward`` takes the maps of all pairs of
            levels at once, two lists, and ``weight`` is a list too.
        takes_weight (bool): ``forward`` takes ``weight`` (N, 1, H, W), 0 or
            more: how much each position counts. A loss that does not gets
            maps that are 0 in the padding.
        needs_label (bool): ``forward`` takes ``label``, the integer class
            map of the batch in its own size.
        needs_image (bool): ``forward`` takes ``image``, the student's input.
        needs_classifier (bool): ``forward`` takes ``classifier``, which
            gives the teacher's class scores of its ``features`` (N, C, H, W)
            and is frozen; the loss looks at these.
        needs_head (bool): ``forward`` takes ``head``, which gives class
            scores and boxes of the maps of all levels; it is what follows
            the teacher's source in its head, and is frozen. See
            :func:`~mmselfkd.losses.crosskd_loss`.
        needs_positives (bool): ``forward`` takes ``positives``, by which the
            student's own class loss is divided.
        needs_objects (bool): ``forward`` takes ``objects`` (N, 1, H, W): the
            largest of 1 / n over the objects that cover a position, n being
            the positions of an object; 0 in no object. The data must have
            boxes.
        needs_regions (bool): ``forward`` takes ``regions`` (N, 2, H, W): in
            which positions the boxes of a level are learnt, and those
            around them; see ``mmselfkd.hosts.regions.box_regions``. The data
            must have boxes, and the student's head anchors.
        needs_positions (bool): The loss compares the positions of a map with
            each other, so vectors of RoIs give it nothing to compare.
        needs_images (bool): The loss compares the images of a batch with
            each other, so a batch of one gives it nothing to compare.
        is_adversarial (bool): See :class:`AdversarialLoss`.
        activation (str, optional): ``'softmax'`` or ``'sigmoid'``: how class
            scores become probabilities. None: the run sets it from the
            student's head; without a run it is the softmax.
        groups (int, optional): How many distributions the channels of one
            position hold, one behind the other. None: the run sets it from
            the student's head; without a run it is 1.
        ignore_index (int | str, optional): Label of the pixels that take no
            part. None: all take part. ``'head'``: the run sets it from the
            student's head; without a run it is 255.
        void_label (int, optional): Label of the pixels that the student's
            head does not learn, whatever ``ignore_index`` says: it is no
            class. The run sets it.
        num_classes (int, optional): How many classes the labels have, where
            the loss counts by class. None: the run sets it from the
            student's head, if that knows.
        bins (int, optional): How many the side of a box has, where
            ``channels`` is ``'distributions'``. The run sets it from the
            student's head.
        sync_ranks (bool): Means are over all ranks. The run sets it to True
            where there are several, and each of them must then make the same
            calls. A loss calls no collective otherwise.
    """
    channels: Literal[
        'classes', 'equal', 'adapt', 'any', 'distributions'] = 'adapt'
    sizes: Literal['equal', 'any'] = 'equal'
    level_reduction: Literal['sum', 'mean'] = 'mean'
    levels_together: bool = False
    takes_weight: bool = False
    needs_label: bool = False
    needs_image: bool = False
    needs_classifier: bool = False
    needs_head: bool = False
    needs_positives: bool = False
    needs_objects: bool = False
    needs_regions: bool = False
    needs_positions: bool = False
    needs_images: bool = False
    is_adversarial: bool = False
    activation: str | None = None
    groups: int | None = None
    ignore_index: int | str | None = None
    void_label: int | None = None
    num_classes: int | None = None
    bins: int | None = None
    sync_ranks: bool = False

    forward: Callable[..., Tensor]

    def pair_levels(
            self, student: Sequence[Tensor],
            teacher: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Which of the teacher's levels each level is compared with.

        Args:
            student (Sequence[Tensor]): Levels of the student, finest first.
            teacher (Sequence[Tensor]): Levels of the teacher.

        Returns:
            list[tuple[Tensor, Tensor]]: Pairs of a student's and a teacher's
            level. Here: the first with the first and so on.

        Raises:
            ValueError: The levels cannot be paired.

        Example:
            >>> DistillationLoss().pair_levels(['s1', 's2'], ['t1', 't2'])
            [('s1', 't1'), ('s2', 't2')]
        """
        if len(student) != len(teacher):
            raise ValueError(
                f'{len(student)} levels of the student ({shapes(student)}) '
                f'but {len(teacher)} of the teacher ({shapes(teacher)}); '
                'pick the same number with [i]')
        if not student:
            raise ValueError('there is no level to compare')
        return list(zip(student, teacher))

    def build(self, student: Tensor, teacher: Tensor,
              image: Tensor | None) -> None:
        """Make what depends on the maps, before the first call.

        Called for each pair of levels. Here: nothing.

        Args:
            student (Tensor): The student's map, (N, C, H, W).
            teacher (Tensor): The teacher's map, (N, C, H, W).
            image (Tensor, optional): The student's input.
        """

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse maps for which the loss is constant by construction.

        Called for each pair of levels, with maps as ``forward`` gets them.
        Here: accepts all.

        Args:
            student (Tensor): The student's map, (N, C, H, W).
            teacher (Tensor): The teacher's map, (N, C, H, W).

        Raises:
            ValueError: The loss can teach nothing here; the message says
                what can.
        """

    def check_cost(self, images: int, student: Tensor,
                   teacher: Tensor) -> str | None:
        """Whether a step takes far more than the method's paper lets it.

        Called for each pair of levels before the first call, since a loss
        that compares all pixels with each other may take minutes. Here: None.

        Args:
            images (int): Of a full batch.
            student (Tensor): The student's map, (N, C, H, W).
            teacher (Tensor): The teacher's map, (N, C, H, W).

        Returns:
            str | None: How much it is and which option makes it less, for a
            warning.

        Raises:
            ValueError: No run gets through so many; the message names the
                option that makes it less, and the one that insists.
        """
        return None

    def fit_data(self, images: int) -> None:
        """Suit a training set of so many images.

        Called before the first map is seen, where that number is known.
        Here: nothing.

        Args:
            images (int): How many the training set has.

        Raises:
            ValueError: An argument does not suit it; the message says what
                would.
        """

    @property
    def ignored_label(self) -> int | None:
        """``ignore_index``, or 255 where no head has set it."""
        if isinstance(self.ignore_index, str):
            return 255
        return self.ignore_index


class AdversarialLoss(DistillationLoss):
    """Base class of the losses with a discriminator of their own.

    The value of a call trains the student. :meth:`discriminator_loss` trains
    ``discriminator``, which has its own optimizer, described by
    ``optimizer_cfg``; a loss never steps it. The discriminator is None until
    :meth:`build` or the first call.

    Args:
        optimizer (dict): Config of the discriminator's optimizer.
    """
    is_adversarial = True
    discriminator: Any  # a module, or None

    def __init__(self, optimizer: dict[str, Any]):
        super().__init__()
        self.optimizer_cfg = optimizer
        self.register_module('discriminator', None)

    def discriminator_loss(
            self,
            student: Tensor,
            teacher: Tensor,
            *,
            image: Tensor | None = None) -> Tensor:
        """The loss of the discriminator, on detached maps.

        Args:
            student (Tensor): The student's map, (N, C, H, W).
            teacher (Tensor): The teacher's map, (N, C, H, W).
            image (Tensor, optional): The student's input, where
                ``needs_image``.

        Returns:
            Tensor: Scalar.
        """
        raise NotImplementedError

    def end_turn(self) -> None:
        """The discriminator has made a step. Here: nothing."""


def shapes(levels: Sequence[Tensor]) -> str:
    """The shapes of the levels, for an error message."""
    return ', '.join(str(tuple(level.shape)) for level in levels)
