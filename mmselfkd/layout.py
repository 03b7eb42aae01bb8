"""Which positions of a batch are image, which are objects."""
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .errors import ConfigError
from .hosts import Host
from .hosts.places import Size
from .hosts.regions import box_regions

ClassMap = Callable[[Any], torch.Tensor | None]

BACKGROUND = -1  # label of what lies in no box
NO_BOXES = ('train_dataloader: the data have no boxes (gt_instances), which '
            '`foreground` of a loss needs')


class BatchLayout:
    """Weights and labels of the positions of a batch's maps.

    Args:
        inputs (Tensor): The preprocessed batch (N, C, H, W), padded at the
            right and at the bottom.
        samples (Any): Its data samples; what is no list says nothing.
        host (Host): Knows how to read these.
        ignore_index (int | None): The label of the padding of a class map
            made of boxes. None: background.
        model (nn.Module, optional): The student, which has the anchors.
    """

    def __init__(self, inputs: torch.Tensor, samples: Any, host: Host,
                 ignore_index: int | None = None,
                 model: Any = None) -> None:
        self.device = inputs.device
        height, width = inputs.shape[2:]
        self.size = height, width
        self.samples = samples if isinstance(samples, (list, tuple)) else []
        self.host, self.model = host, model
        self.padding_label = (
            BACKGROUND if ignore_index is None else ignore_index)
        self.shapes = [host.image_size(sample, self.size)
                       for sample in self.samples]
        self.has_boxes = bool(self.samples) and all(
            host.boxes(sample) is not None for sample in self.samples)
        self.is_padded = any(shape != self.size for shape in self.shapes)
        self._weights: dict[tuple, torch.Tensor] = {}

    def weight(self, size: Sequence[int],
               foreground: float | None = None) -> torch.Tensor | None:
        r"""The weight of each position of maps of this size.

        A position is image where its cell reaches into the image, as mmdet
        counts valid anchors; the others weigh 0. With ``foreground``
        :math:`a` those of an image weigh

        .. math::
            w_p = \frac{a}{|O|} \sum_{o \in O: p \in o} \frac{1}{|o|}
                + \frac{1 - a}{|B|} [p \in B]

        where :math:`O` are the objects, :math:`|o|` the positions whose
        centre lies in the box of :math:`o` (for a box that holds none the
        one next to its own centre) and :math:`B` the positions in no object.
        So every object counts the same, however small. Without an object the
        first term is 0.

        Args:
            size (Sequence[int]): H and W of the maps.
            foreground (float, optional): Share of the objects, in [0, 1].

        Returns:
            Tensor | None: (N, 1, H, W); None where all weigh the same.

        Raises:
            ConfigError: ``foreground`` without boxes in the data.
        """
        key = tuple(size), foreground
        if foreground is None and not self.is_padded:
            return None
        if not self.samples:
            raise ConfigError(NO_BOXES)
        if key not in self._weights:
            valid = self._valid(size)
            self._weights[key] = valid if foreground is None else torch.stack(
                [self._of_image(i, valid[i, 0], foreground)
                 for i in range(len(self.samples))])[:, None]
        return self._weights[key]

    def objects(self, size: Sequence[int]) -> torch.Tensor:
        """The largest 1 / |o| of the objects that cover each position.

        |o| are the positions of an object as :meth:`weight` counts them.

        Args:
            size (Sequence[int]): H and W of the maps.

        Returns:
            Tensor: (N, 1, H, W), 0 in no object.

        Raises:
            ConfigError: The data have no boxes.
        """
        if not self.samples:
            raise ConfigError(NO_BOXES)
        valid = self._valid(size)
        none = valid.new_zeros((1, *size))
        return torch.stack([
            torch.cat([none, _shares(self._inside(i, valid[i, 0]))]).amax(
                0, keepdim=True) for i in range(len(self.samples))])

    def regions(self, sizes: Sequence[Size]) -> list[torch.Tensor]:
        """Where the boxes of each level are learnt, and around that.

        Main and valuable region of :func:`~mmselfkd.hosts.regions
        .box_regions`, 1 through the positions that a region has in an image
        over all levels, 0 elsewhere. The padding is in neither.

        Args:
            sizes (Sequence): H and W of the student's levels, all of them.

        Returns:
            list[Tensor]: Of each level (N, 2, H, W).

        Raises:
            ConfigError: The data have no boxes, or the student's head has
                not one anchor at each position of these levels.
        """
        if not self.samples:
            raise ConfigError(NO_BOXES)
        anchors = self.host.anchors(self.model, sizes, self.device)
        if anchors is None:
            raise ConfigError(
                f'the {len(sizes)} levels {[tuple(s) for s in sizes]} are '
                'not those of a head with one anchor at each position, such '
                "as GFLHead; use source='boxes', all of its levels")
        valid = torch.cat([self._valid(s).flatten(1) for s in sizes], 1) > 0
        found = torch.stack([
            torch.stack(box_regions(anchors, self._boxes(i)[0], valid[i]))
            for i in range(len(self.samples))]).float()
        found = found / found.sum(2, keepdim=True).clamp(min=1)
        return [part.unflatten(2, tuple(size)) for part, size in zip(
            found.split([h * w for h, w in sizes], 2), sizes)]

    def cut(self, level: torch.Tensor) -> torch.Tensor:
        """A level that is 0 in the padding."""
        weight = self.weight(level.shape[2:])
        return level if weight is None else level * weight

    def image(self) -> torch.Tensor | None:
        """Where the input is image (N, 1, H, W), None: everywhere."""
        weight = self.weight(self.size)
        return None if weight is None else weight > 0

    def label(self, class_map: ClassMap | None = None) -> torch.Tensor | None:
        """The class maps (N, H, W), None where the data have none.

        Of a detection batch: the class of the smallest box that covers a
        pixel, :data:`BACKGROUND`, or in the padding ``ignore_index``.

        Args:
            class_map (Callable, optional): Gives that of a sample. None: as
                the batch has it.
        """
        if not self.samples:
            return None
        if class_map is None and self.has_boxes:
            return torch.stack([
                self._label_of_image(i) for i in range(len(self.samples))])
        class_map = class_map or self.host.class_map
        maps = [class_map(sample) for sample in self.samples]
        known = [m for m in maps if m is not None]
        return torch.stack(known) if len(known) == len(maps) else None

    def _valid(self, size: Sequence[int]) -> torch.Tensor:
        """1 where a cell reaches into its image, else 0 (N, 1, H, W)."""
        reach = torch.tensor(
            [[-(-image * cells // total) for image, cells, total in zip(
                shape, size, self.size)] for shape in self.shapes],
            device=self.device)
        rows, columns = (
            torch.arange(cells, device=self.device) < reach[:, i, None]
            for i, cells in enumerate(size))
        return (rows[:, :, None] & columns[:, None])[:, None].float()

    def _of_image(self, index: int, valid: torch.Tensor,
                  foreground: float) -> torch.Tensor:
        inside = self._inside(index, valid)
        outside = valid * ~inside.any(0)
        return (foreground * _shares(inside).sum(0) / max(len(inside), 1)
                + (1 - foreground) * outside / outside.sum().clamp(min=1))

    def _inside(self, index: int, valid: torch.Tensor) -> torch.Tensor:
        """Which positions each object of an image covers (n, H, W)."""
        size, (boxes, _) = valid.shape, self._boxes(index)
        # one more position where the smallest boxes hold none
        y, x = (torch.arange(cells, device=self.device) for cells in size)
        scale = boxes.new_tensor([
            size[1] / self.size[1], size[0] / self.size[0]]).repeat(2)
        left, top, right, bottom = ((boxes * scale).T[..., None])
        inside = (((y + .5 >= top) & (y + .5 <= bottom))[:, :, None]
                  & ((x + .5 >= left) & (x + .5 <= right))[:, None])
        middle = (
            (y == ((top + bottom) / 2).long().clamp(0, size[0] - 1))[..., None]
            & (x == ((left + right) / 2).long().clamp(0, size[1] - 1)
               )[:, None])
        is_empty = ~inside.flatten(1).any(1)[:, None, None]
        return (inside | middle & is_empty) & (valid > 0)

    def _boxes(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.host.boxes(self.samples[index])
        if found is None:
            raise ConfigError(NO_BOXES)
        return found

    def _label_of_image(self, index: int) -> torch.Tensor:
        label = torch.full(
            self.size, self.padding_label, dtype=torch.long,
            device=self.device)
        height, width = self.shapes[index]
        label[:height, :width] = BACKGROUND
        boxes, classes = self._boxes(index)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        order = areas.argsort(descending=True).tolist()
        corners: list[list] = boxes.round().long().clamp(min=0).tolist()
        labels = classes.tolist()
        for i in order:
            left, top, right, bottom = corners[i]
            label[top:min(bottom, height), left:min(right, width)] = labels[i]
        return label


def _shares(inside: torch.Tensor) -> torch.Tensor:
    """1 / |o| in each object, 0 elsewhere (n, H, W)."""
    return inside / inside.sum((1, 2), keepdim=True).clamp(min=1)
