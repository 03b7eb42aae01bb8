"""What the toolkit asks of the project that a model comes from."""
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from mmengine.structures import BaseDataElement
from torch import nn

from ..errors import ConfigError, nearest
from .heads import find_head_spec
from .places import InputFormat, Place, Size, watched_modules
from .tokens import token_grid

KINDS: tuple[Literal['classes', 'boxes'], ...] = ('classes', 'boxes')

# the way that is open where class scores cannot be compared
ON_FEATURES = "use a loss on features, type='NFDLoss' with source='features'"

# whose aliases these are: another model has nothing that they could mean
ELSEWHERE = dict(
    boxes='a detector', branches='a dense detector',
    positives='a dense detector',  # of a loss that is divided by them
    depth='a depth estimator',
    rois='a two-stage detector', mask_rois='a two-stage instance segmentor')


class Host:
    """A project, such as mmseg, by what its models look like.

    This class knows no head and no label: a plain ``nn.Module`` belongs to
    it, and any module of it can be named as a source. A subclass says what
    is special about the models of one project. It is registered by
    :func:`~mmselfkd.hosts.register_host`; the newest host that says it owns
    a model gets it.

    Attributes:
        aliases (tuple[str]): Sources with a meaning, such as ``'logits'``.
    """

    aliases: tuple[str, ...] = ()

    # -- whose model is it, and where are its parts --------------------------

    def owns(self, model: nn.Module) -> bool:
        """Whether ``model`` is one of this project."""
        return True

    def heads(self, model: nn.Module) -> list[nn.Module]:
        """The heads with class scores or boxes, the main one first."""
        return []

    def alias(self, model: nn.Module, name: str, where: str) -> Place | None:
        """What one of :attr:`aliases` stands for; None: a module's name.

        Args:
            model (nn.Module): The unwrapped model.
            name (str): The alias.
            where (str): Config key and value, for the error.

        Raises:
            ConfigError: This model has no such place.
        """
        return None

    def place(self, model: nn.Module, path: str, where: str) -> Place:
        """What ``path``, an alias or the name of a module, stands for.

        Args:
            model (nn.Module): The unwrapped model.
            path (str): A source without its indices.
            where (str): Config key and value, for the error.

        Raises:
            ConfigError: The model has no such place.
        """
        if path in self.aliases:
            found = self.alias(model, path, where)
            if found is not None:
                return found
        modules = dict(model.named_modules())
        name = path.partition('.')[0]
        if name in ELSEWHERE and path not in modules:
            raise ConfigError(f'{where}: {ELSEWHERE[name]} has such, and '
                              f'a {type(model).__name__} is none; '
                              f'{ON_FEATURES}')
        if path not in modules or path == '':
            raise ConfigError(
                f'{where}: {type(model).__name__} has no module {path!r}' +
                nearest(path, [*filter(None, modules), *self.aliases],
                        examples=[*self.aliases,
                                  *(n for n, _ in model.named_children())]))
        watched = watched_modules(modules[path])
        for known in self.known_places(model):
            if known.modules == watched and known.argument is None:
                return known
        return Place(watched, is_map=self.is_map(model, path),
                     grid=lambda tokens, size: token_grid(
                         model, path, tokens, size))

    def known_places(self, model: nn.Module) -> list[Place]:
        """Of class scores and boxes of every head, each stage of a cascade."""
        return [place for head in model.modules()
                if (spec := find_head_spec(head)) is not None
                for kind in KINDS
                if (place := spec.place(head, kind)) is not None]

    def is_map(self, model: nn.Module, path: str) -> bool:
        """Whether a module gives maps of the image, not of regions in it."""
        return True

    def num_classes(self, model: nn.Module) -> int | None:
        """The classes of the main head, where there are such."""
        return None

    def classifier(self, model: nn.Module) -> nn.Module | None:
        """What makes class scores of ``features``, where one layer does."""
        return None

    def head_end(self, model: nn.Module, path: str,
                 where: str) -> Callable[..., Any] | None:
        """What makes class scores and boxes of the branches of a head.

        Args:
            model (nn.Module): The unwrapped model.
            path (str): The source that gives them, such as ``branches.-1``.
            where (str): Config key and value, for the error.

        Returns:
            Callable | None: See ``mmselfkd.hosts.branches.HeadEnd``;
            None: ``path`` means something else.

        Raises:
            ConfigError: The head has no such branches.
        """
        return None

    def has_fixed_strides(self, model: nn.Module) -> bool:
        """Whether levels mean a size of object, so that strides must agree."""
        return False

    def ignore_index(self, model: nn.Module) -> int | None:
        """The label of the pixels that the main head ignores."""
        return 255

    # -- a batch -------------------------------------------------------------

    def unpack(self, data: Any) -> tuple[torch.Tensor, Any]:
        """Inputs and data samples of what the preprocessor gives.

        Raises:
            ConfigError: It gives something else.
        """
        inputs = data.get('inputs') if isinstance(data, dict) else None
        if isinstance(inputs, dict):
            raise ConfigError(
                f'model.data_preprocessor: gives a batch for each of '
                f'{list(inputs)}; a model that trains on several branches, '
                'such as SoftTeacher, cannot be distilled; distil the '
                'detector in it, in a run of its own')
        if not isinstance(inputs, torch.Tensor):
            raise ConfigError(
                f'model.data_preprocessor: gives a {type(data).__name__}; '
                'dict(inputs=Tensor, data_samples=...), as in mmseg and '
                'mmdet, is needed')
        return data['inputs'], data.get('data_samples')

    def without_labels(self, samples: Any) -> Any:
        """The same samples with their meta information only, if any."""
        if not _is_list(samples) or not all(
                hasattr(sample, 'metainfo') for sample in samples):
            return None
        return [type(s)(metainfo=s.metainfo) for s in samples]

    def snapshot(self, samples: Any) -> Any:
        """The samples as they are, whatever a loss may put in their place."""
        if not _is_list(samples):
            return samples
        return [_cloned(sample) for sample in samples]

    def image_size(self, sample: Any,
                   size: Size) -> Size:
        """Height and width of the image in an input of ``size``."""
        meta = getattr(sample, 'metainfo', {})
        height, width = meta.get('img_shape', size)[:2]
        return min(height, size[0]), min(width, size[1])

    def class_map(self, sample: Any) -> torch.Tensor | None:
        """The label of each pixel (H, W); None where there is none."""
        return None

    def boxes(self, sample: Any
              ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Boxes (n, 4), x1 y1 x2 y2, and their classes (n); None: no such."""
        return None

    def anchors(self, model: nn.Module, sizes: Sequence[Size],
                device: Any) -> list[torch.Tensor] | None:
        """The anchors (H W, 4) of levels of these sizes.

        None: the main head has none, or several at a position.
        """
        return None

    # -- how a model teaches -------------------------------------------------

    def remove_unused(self, model: nn.Module) -> tuple[str, ...]:
        """Take out what only the model's own training needs.

        Returns:
            tuple[str]: The names of the children taken out.
        """
        return ()

    def run(self, model: nn.Module, inputs: torch.Tensor,
            samples: Any) -> None:
        """A forward pass without labels.

        A model of mmengine has modes; any other one is given the inputs.
        """
        parameters = inspect.signature(model.forward).parameters
        if 'mode' in parameters or any(
                p.kind is p.VAR_KEYWORD for p in parameters.values()):
            model(inputs, samples, mode='tensor')
        else:
            model(inputs)

    def run_to_predict(self, model: nn.Module, inputs: torch.Tensor,
                       samples: Any) -> None:
        """The same on the way of inference, for what :meth:`run` misses."""
        model(inputs, samples, mode='predict')

    def regions_for(self, student: nn.Module, path: str) -> list[str]:
        """The student's sources of regions that a teacher must be run on."""
        return []

    def run_on_regions(self, model: nn.Module, inputs: torch.Tensor,
                       regions: dict[str, list[torch.Tensor]],
                       paths: dict[str, str]) -> None:
        """A forward pass for the regions that the student chose.

        Args:
            model (nn.Module): The teacher's.
            inputs (Tensor): Its input.
            regions (dict): Of each of the student's sources, RoI by RoI
                extractor.
            paths (dict): What is looked at in the teacher, and where that
                stands in the config, for the errors.
        """
        raise TypeError(f'{type(model).__name__} has no regions')

    def input_format(self, model: nn.Module) -> InputFormat:
        """What the model expects of its input."""
        return InputFormat.of(getattr(model, 'data_preprocessor', None))

    # -- how a student teaches itself ----------------------------------------

    def refinement(self, student: nn.Module, levels: list[torch.Tensor],
                   neck: dict | None, head: dict | None,
                   key: str) -> 'Refinement':
        """A neck and a head that refine the student's levels (FRSKD).

        Args:
            student (nn.Module): Gives the classes, losses and norm.
            levels (list[Tensor]): What is refined, one rehearsed batch.
            neck (dict, optional): Config of the neck.
            head (dict, optional): Config of the head.
            key (str): Where these stand in the config, for the errors.

        Raises:
            ConfigError: It cannot be built for this student.
        """
        raise ConfigError(f'{key}: a self-teacher needs a segmentor or a '
                          f'detector, not a {type(student).__name__}; use '
                          'another method, such as TFDHook')

    def pixel_loss(self, student: nn.Module, key: str) -> 'PixelLoss':
        """The student's own loss for class scores of each pixel.

        Raises:
            ConfigError: The student has none.
        """
        raise ConfigError(f'{key}: works with segmentors only, not with a '
                          f'{type(student).__name__}; use another method, '
                          'such as TFDHook')


@dataclass
class Refinement:
    """A network on the student's levels that learns the task too.

    Attributes:
        network (nn.Module): Trained along with the student.
        losses (Callable): ``losses(levels, samples)`` runs it and gives its
            own losses by name.
    """
    network: nn.Module
    losses: Callable[[list[torch.Tensor], Any], dict[str, torch.Tensor]]


@dataclass
class PixelLoss:
    """A segmentation head's loss, for class scores from elsewhere.

    Attributes:
        ignore_index (int): The label that takes no part.
        norm_cfg (dict): The norm of the head.
        value (Callable): ``value(scores, [(label, share), ...])`` of scores
            (N, K, h, w), enlarged to the labels (N, H, W), is the weighted
            sum of the losses.
    """
    ignore_index: int
    norm_cfg: dict | None
    value: Callable[[torch.Tensor, Sequence[tuple[torch.Tensor, float]]],
                    torch.Tensor]


def _is_list(samples: Any) -> bool:
    """Whether there is one for each image; a loop may have a tensor."""
    return isinstance(samples, (list, tuple))


def _cloned(element: Any) -> Any:
    """A data element of mmengine with the same tensors."""
    if not isinstance(element, BaseDataElement):
        return element
    clone = element.clone()
    for name, value in element.items():
        if isinstance(value, BaseDataElement):
            clone.set_data({name: _cloned(value)})
    return clone
