"""Which module of a head gives what: one line a head."""
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from ..checks import is_integer
from ..errors import ConfigError, nearest
from .places import Place, Reading, attribute, watched_modules

SIZE = 'cls_out_channels'  # mmdet's heads call it so

Where = str | Callable[[Any], Place | None] | None
Kind = Literal['classes', 'boxes', 'depth', 'features']


@dataclass(frozen=True)
class HeadSpec:
    """What a head looks like.

    Attributes:
        name (str): Of the class that is registered.
        classes (str | Callable): The attribute that gives class scores, such
            as ``'conv_seg'`` or ``'branch.0.conv'``; or a function from the
            head to a :class:`Place`.
        boxes (str | Callable): The same for box outputs.
        depth (str | Callable): The same for a depth map.
        features (str | Callable): The attribute whose input is what the head
            classifies, where that is not what enters ``classes`` or
            ``depth``; or a function to a :class:`Place`.
        activation (str | None): ``'softmax'`` or ``'sigmoid'``; None: as the
            losses of the head say.
        size (str | None): The attribute with the channels of one anchor.
            None: ``cls_out_channels``, where the head has such.
        bins (str | None): The attribute with the largest bin of a head whose
            boxes are distributions.
    """
    name: str = ''
    classes: Where = None
    boxes: Where = None
    depth: Where = None
    features: Where = None
    activation: str | None = None
    size: str | None = None
    bins: str | None = None

    def place(self, head: nn.Module, kind: Kind) -> Place | None:
        """Where ``head`` gives what is asked for; None: not known.

        Raises:
            ConfigError: It has no such ``features``, ``size`` or ``bins``, or
                a function gives no :class:`Place`.
        """
        where = getattr(self, kind)
        if where is None:
            return None
        if callable(where):
            found = where(head)
            if found is None or isinstance(found, Place):
                return found
            raise ConfigError(
                f'register_head({self.name!r}, {kind}={where!r}): gives a '
                f'{type(found).__name__}; a Place, or None where it is not '
                'known, is needed')
        module = attribute(head, where)
        if not isinstance(module, nn.Module):
            if kind == 'features':  # else what enters `classes` were taken
                raise ConfigError(self.missing(head, kind))
            return None
        if kind == 'features':
            return Place(watched_modules(module), argument=0)
        return Place(
            watched_modules(module), reading=self.reading(head, kind),
            ignore_index=ignored_label(head))

    def missing(self, head: nn.Module, option: str) -> str:
        """What is registered but not in ``head``, for an error; or ''."""
        name = getattr(self, option)
        if not isinstance(name, str) or attribute(head, name) is not None:
            return ''
        names = [n for n, value in vars(head).items() if is_integer(value)]
        if option not in ('size', 'bins'):
            names = [n for n, _ in head.named_children()]
        return (f'register_head({self.name!r}, {option}={name!r}): a '
                f'{type(head).__name__} has no attribute {name!r}'
                + nearest(name, names))

    def reading(self, head: nn.Module, kind: str) -> Reading:
        """How the channels are to be read.

        Raises:
            ConfigError: The head has no such ``size`` or ``bins``.
        """
        missing = self.missing(head, 'size' if kind == 'classes' else 'bins')
        if missing:
            raise ConfigError(missing)
        if kind == 'classes':
            return Reading('classes', self.activation or activation_of(head),
                           getattr(head, self.size or SIZE, None))
        if kind == 'boxes' and self.bins is not None:
            return Reading('distributions', 'softmax',
                           getattr(head, self.bins) + 1)
        return Reading('values')


_SPECS: dict[str, HeadSpec] = {}


def register_head(name: str, *, classes: Where = None, boxes: Where = None,
                  depth: Where = None, features: Where = None,
                  activation: str | None = None, size: str | None = None,
                  bins: str | None = None) -> None:
    """Say what the heads of class ``name`` and its subclasses look like.

    Example::

        register_head('MyHead', classes='my_cls', boxes='my_reg')

    Args:
        name (str): Name of the class.
        classes (str | Callable): See :class:`HeadSpec`, and for the others.
        boxes (str | Callable): Box outputs.
        depth (str | Callable): A depth map.
        features (str | Callable): What the head classifies.
        activation (str, optional): ``'softmax'`` or ``'sigmoid'``.
        size (str, optional): The attribute with the channels of one anchor.
        bins (str, optional): The attribute with the largest bin.

    Raises:
        ConfigError: A value of another kind. An attribute that a head does
            not have is an error where the head is used.
    """
    if activation not in (None, 'softmax', 'sigmoid'):
        raise ConfigError(
            f'register_head({name!r}, activation={activation!r}): '
            "'softmax', 'sigmoid' or None is needed")
    for option, where in dict(classes=classes, boxes=boxes, depth=depth,
                              features=features).items():
        if not (where is None or isinstance(where, str) or callable(where)):
            raise ConfigError(
                f'register_head({name!r}, {option}={where!r}): the name of '
                'an attribute or a function of the head is needed')
    _SPECS[name] = HeadSpec(
        name, classes, boxes, depth, features, activation, size, bins)


@contextmanager
def preserved_heads() -> Iterator[None]:
    """Put back at the end what is registered now."""
    specs = dict(_SPECS)
    try:
        yield
    finally:
        _SPECS.clear()
        _SPECS.update(specs)


def find_head_spec(head: nn.Module) -> HeadSpec | None:
    """What is registered for the class of ``head`` or the nearest base."""
    for cls in type(head).__mro__:
        if cls.__name__ in _SPECS:
            return _SPECS[cls.__name__]
    return None


def activation_of(head: nn.Module) -> str:
    """``'sigmoid'`` or ``'softmax'``, as the losses of ``head`` have it.

    Of a list of losses the cross entropy or focal loss decides: an overlap
    loss beside it, such as Dice, may take another activation by default. One
    class channel alone is a sigmoid's: a softmax of it is constant.
    """
    if hasattr(head, 'use_sigmoid_cls'):
        return 'sigmoid' if head.use_sigmoid_cls else 'softmax'
    if getattr(head, 'out_channels', None) == 1:
        return 'sigmoid'
    losses = _losses_of(head)
    point = [loss for loss in losses if not any(
        word in type(loss).__name__ for word in OVERLAP)]
    return 'sigmoid' if any(
        _is_sigmoid(loss) for loss in point or losses) else 'softmax'


def _losses_of(head: nn.Module) -> list[Any]:
    losses: list[Any] = []
    for name in ('loss_cls', 'loss_decode', 'loss_mask', 'loss_seg',
                 'criterion'):
        loss = getattr(head, name, None)
        losses += list(loss) if isinstance(loss, nn.ModuleList) else [loss]
    return [loss for loss in losses if loss is not None]


VOID = 255  # the label that is ignored where nothing else is said


def ignored_label(head: Any) -> int | None:
    """The label of the pixels that a head does not learn; None: not known.

    As the head says. Some losses ask it not, and have a label of their own;
    where the head leaves the usual 255, and all its losses agree on another
    label, that one is meant.
    """
    label = getattr(head, 'ignore_index', None)
    own = {own_label(loss) for loss in _losses_of(head)}
    if label == VOID and len(own) == 1 and own != {None}:
        return own.pop()
    return label


def own_label(loss: Any) -> int | None:
    """The label that a loss ignores whatever its head says, if any."""
    return next((getattr(loss, name) for name in (
        'ignore_label', 'ignore_index') if hasattr(loss, name)), None)


# mmseg spells the third like this
OVERLAP = ('Dice', 'Tversky', 'Huasdorff', 'Lovasz', 'Boundary')


def _is_sigmoid(loss: Any) -> bool:
    criterion = getattr(loss, 'cls_criterion', None)
    return (getattr(loss, 'use_sigmoid', False)
            or getattr(loss, 'use_mask', False)
            or getattr(criterion, '__name__', '') == 'lovasz_hinge')
