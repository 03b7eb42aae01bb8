"""Where a source looks, and how what is found there is to be read."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

Size = tuple[int, ...]  # height and width
Model = Any  # an nn.Module whose parts are known by name


@dataclass(frozen=True)
class Reading:
    """How the channels of a map are to be read.

    Attributes:
        kind (str): ``'classes'``: scores of classes; ``'distributions'``:
            scores of the bins of box sides; ``'values'``: numbers, such as
            box offsets or depth.
        activation (str | None): ``'softmax'`` or ``'sigmoid'`` makes
            probabilities of scores.
        size (int | None): Channels that belong together: the classes of one
            anchor, the bins of one side. None: all of them.
        partners (tuple[int] | None): Which classes of the student a teacher
            gives by a class map, in their order. None: all, as they are.
    """
    kind: Literal['classes', 'distributions', 'values']
    activation: str | None = None
    size: int | None = None
    partners: tuple[int, ...] | None = None

    def groups(self, channels: int) -> int:
        """How many anchors, or sides of anchors, ``channels`` hold."""
        return 1 if self.size is None else max(channels // self.size, 1)


@dataclass
class Place:
    """Where a source looks.

    Attributes:
        modules (list[nn.Module]): What is watched, in the order of the runs.
        argument (int | str | None): The input that is meant, a keyword by
            its name; None: the output.
        dropout (nn.Module | None): One in front of that input; where the
            input came out of it, what went in is meant.
        select (Callable | None): ``select(values)`` picks from the list of
            what the runs gave; None: one value, or the list of several.
        reading (Reading | None): How channels are to be read; None: features.
        queries (int): So many object queries are meant; 0: none. Their level
            has the class scores and, behind them, cx, cy, w and h of the box
            as shares of the image; ``reading`` says which is meant.
        is_map (bool): Whether it gives maps of the image, and not of regions
            or queries.
        is_raw (bool): Whether it is handed on as it is, not as a level.
        grid (Callable | None): ``grid(tokens, (H, W))`` of an input of that
            size is (h, w, first tokens without a place), or None where it is
            not known.
        ignore_index (int | None): The label that the head ignores whose
            class scores these are; None: that of the main head.
        class_map (Callable | None): ``class_map(sample)`` is the label (H, W)
            that these scores are of; None: as the batch has it.
        missing (str): What to say where none of the modules runs; '': what
            is said of any module.
    """
    modules: list[nn.Module]
    argument: int | str | None = None
    dropout: nn.Module | None = None
    select: Callable[[list], Any] | None = None
    reading: Reading | None = None
    queries: int = 0
    is_map: bool = True
    is_raw: bool = False
    grid: Callable[[int, Size], tuple[int, int, int] | None] | None = None
    ignore_index: int | None = None
    class_map: Callable[[Any], torch.Tensor | None] | None = None
    missing: str = ''


@dataclass(frozen=True, eq=False)
class InputFormat:
    """What a model expects of its input.

    Attributes:
        mean, std (Tensor | Sequence[float] | None): Of each channel of the
            image, in the model's own order; None: 0 and 1.
        is_swapped (bool): Whether the model turns the order of colours of
            the pipeline around: True for a model of RGB images, since
            pipelines read BGR.
        pad_value (float): What the padding holds, after normalisation.
        multiple (int): Height and width must be multiples of it.
        size (tuple[int, int] | None): The only size that it can take.
    """
    mean: torch.Tensor | Sequence[float] | None = None
    std: torch.Tensor | Sequence[float] | None = None
    is_swapped: bool = False
    pad_value: float = 0
    multiple: int = 1
    size: Size | None = None

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and std (C, 1, 1) or, alike for all channels, (1, 1, 1)."""
        mean, std = (
            torch.as_tensor(default if values is None else values,
                            dtype=torch.float).cpu().view(-1, 1, 1)
            for values, default in ((self.mean, 0.), (self.std, 1.)))
        return mean, std

    @classmethod
    def of(cls, preprocessor: nn.Module | None) -> 'InputFormat':
        """That of a data preprocessor of mmengine, mmseg or mmdet."""
        if preprocessor is None:
            return cls()
        mean = std = None
        if getattr(preprocessor, '_enable_normalize', False):
            mean, std = (getattr(preprocessor, name) for name in (
                'mean', 'std'))
        test_cfg = getattr(preprocessor, 'test_cfg', None) or {}
        multiple = (test_cfg.get('size_divisor')
                    or getattr(preprocessor, 'size_divisor', None)
                    or getattr(preprocessor, 'pad_size_divisor', None) or 1)
        return cls(
            mean, std,
            # the second name is upstream mmseg's
            any(getattr(preprocessor, name, False)
                for name in ('_channel_conversion', 'channel_conversion')),
            getattr(preprocessor, 'pad_value',
                    getattr(preprocessor, 'pad_val', 0)), multiple)


def split_queries(level: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Class scores (N, K, Q, 1) and boxes (N, 4, Q, 1) of object queries.

    Args:
        level (Tensor): Of a :class:`Place` with queries, (N, K + 4, Q, 1).
    """
    return level[:, :-4], level[:, -4:]


def watched_modules(module: nn.Module | None) -> list[nn.Module]:
    """A module, or what a list of them holds, each once."""
    if isinstance(module, nn.ModuleList):
        return list(dict.fromkeys(module))
    return [] if module is None else [module]


def attribute(model: Any, path: str) -> Any:
    """``model.a.b`` for ``'a.b'``, ``model.a[0]`` for ``'a.0'``; or None."""
    for name in path.split('.'):
        try:
            model = model[int(name)] if name.lstrip('-').isdigit() else (
                getattr(model, name, None))
        except (IndexError, TypeError):
            return None
    return model
