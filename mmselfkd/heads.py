"""What the aliases of a source stand for in the models of the hosts.

Known by their attributes alone, so that neither mmseg nor mmdet is imported:

- a segmentor has ``decode_head`` with ``conv_seg``; a depth estimator
  ``decode_head`` with ``conv_depth``;
- a one-stage or DETR-like detector has ``bbox_head``;
- a two-stage detector has ``roi_head``.
"""
from dataclasses import dataclass

from torch import nn

from .errors import ConfigError, nearest

ALIASES = ('logits', 'features', 'pyramid', 'boxes', 'depth', 'rois',
           'mask_rois')

# Attributes of mmdet's heads: class scores, box outputs
CLASS_MODULES = ('conv_cls', 'retina_cls', 'atss_cls', 'gfl_cls', 'rtm_cls',
                 'vfnet_cls', 'multi_level_conv_cls', 'rpn_cls', 'fc_cls',
                 'cls_branches', 'conv_logits')
BOX_MODULES = ('conv_reg', 'retina_reg', 'atss_reg', 'gfl_reg', 'rtm_reg',
               'vfnet_reg', 'multi_level_conv_reg', 'rpn_reg', 'fc_reg')


@dataclass
class Place:
    """Where a source looks.

    Attributes:
        modules (list[nn.Module]): What is watched, in the order of the runs.
        argument (int | None): The input that is meant; None: the output.
        queries (int): The last decoder layer's so many object queries are
            meant; 0: no queries.
        is_map (bool): Whether it gives maps of the image, and not of RoIs or
            queries.
        is_raw (bool): Whether it is handed on as it is, not as a level.
    """
    modules: list[nn.Module]
    argument: int | None = None
    queries: int = 0
    is_map: bool = True
    is_raw: bool = False


@dataclass
class Scores:
    """How class scores are to be read.

    Attributes:
        classes (int | None): Channels of one anchor; None: all.
        is_sigmoid (bool): One yes or no for each class, or one softmax.
        queries (int): Scores of so many object queries; 0: of positions.
    """
    classes: int | None
    is_sigmoid: bool
    queries: int = 0


def find_place(model: nn.Module, path: str, source: str, key: str) -> Place:
    """What ``path``, an alias or the name of a module, stands for.

    Args:
        model (nn.Module): The unwrapped model.
        path (str): A source without its indices.
        source (str): The source in full, for the error.
        key (str): Where that stands in the config, for the error.

    Raises:
        ConfigError: The model has no such place.
    """
    where = f'{key} = {source!r}'
    if path in ('rois', 'mask_rois'):
        kind = 'mask' if path == 'mask_rois' else 'bbox'
        name = f'roi_head.{kind}_roi_extractor'
        modules = _modules(_attribute(model, name))
        if not modules:
            raise ConfigError(f'{where}: {type(model).__name__} has no '
                              f"`{name}`; use 'neck' or 'backbone'")
        return Place(modules, argument=1, is_raw=True)
    if path == 'pyramid' and not is_detector(model):
        return Place([model.backbone])
    if path in ('features', 'pyramid') and is_detector(model):
        neck = getattr(model, 'neck', None)
        return Place([model.backbone if neck is None else neck])
    if path == 'features':
        head, classifier = _dense_head(model, where, None)
        dropout = getattr(head, 'dropout', None)
        return Place([classifier if dropout is None else dropout], argument=0)
    if path == 'depth':
        return Place([_dense_head(model, where, 'conv_depth')[1]])
    if path == 'logits' and not is_detector(model):
        return Place([_dense_head(model, where, 'conv_seg')[1]])
    if path in ('logits', 'boxes'):
        return _detection_place(model, path, where)
    modules = dict(model.named_modules())
    if path not in modules or path == '':
        raise ConfigError(f'{where}: {type(model).__name__} has no module '
                          f'{path!r}' + nearest(path, [*modules, *ALIASES]))
    found = _modules(modules[path])
    for head in _heads(model):  # the path of what an alias stands for
        if found == _parts(head, CLASS_MODULES) and _queries(model, head):
            return _detection_place(model, 'logits', where)
    return Place(found, is_map=not path.startswith('roi_head.'))


def is_detector(model: nn.Module) -> bool:
    """Whether it finds boxes."""
    return hasattr(model, 'bbox_head') or hasattr(model, 'roi_head')


def scores_of(model: nn.Module, place: Place) -> Scores | None:
    """How to read what ``place`` gives, where that is class scores."""
    for head in _heads(model):
        if place.argument is None and place.modules == _parts(
                head, (*CLASS_MODULES, 'conv_seg')):
            return Scores(
                getattr(head, 'cls_out_channels', None), _is_sigmoid(head),
                place.queries)
    return None


def rois_for(student: nn.Module, source: str) -> list[str]:
    """What a teacher must know of the student's RoIs for this source."""
    path = source.partition('[')[0]
    if path in ('logits', 'boxes') and hasattr(student, 'roi_head'):
        return ['rois']
    if path.startswith('roi_head.mask'):
        return ['mask_rois']
    return ['rois'] if path.startswith('roi_head.') else []


def segmentation_head(model: nn.Module, key: str) -> nn.Module:
    """The main head of a segmentor.

    Args:
        model (nn.Module): The unwrapped model.
        key (str): Who needs it, for the error.

    Raises:
        ConfigError: The model has no such head.
    """
    if is_detector(model) or not hasattr(model, 'decode_head'):
        raise ConfigError(f'{key}: works with segmentors only; '
                          f'{type(model).__name__} has no decode_head')
    return _dense_head(model, key, 'conv_seg')[0]


def _dense_head(model: nn.Module, where: str, wanted: str | None):
    """mmseg's head, and its last layer ``wanted`` (None: any)."""
    head = getattr(model, 'decode_head', None)
    if isinstance(head, nn.ModuleList):  # cascade: the last one decides
        head = head[-1]
    for name in (wanted, ) if wanted else ('conv_seg', 'conv_depth'):
        if isinstance(getattr(head, name, None), nn.Module):
            return head, getattr(head, name)
    name = type(model if head is None else head).__name__
    if is_detector(model):
        hint = "it is a detector; use 'logits', 'features' or 'neck'"
    elif hasattr(head, 'conv_depth'):
        hint = "it estimates depth; use 'depth' or 'features'"
    else:
        hint = ('name the module instead, one of '
                f'{[n for n, _ in (head or model).named_children()]} below '
                f'{"the model" if head is None else "decode_head"}')
    raise ConfigError(f'{where}: {name} has no '
                      f'`decode_head.{wanted or "conv_seg"}`, which '
                      f'this alias stands for; {hint}')


def _detection_place(model: nn.Module, alias: str, where: str) -> Place:
    head = _heads(model)[0]
    modules = _parts(
        head, CLASS_MODULES if alias == 'logits' else BOX_MODULES)
    queries = _queries(model, head)
    if not modules or (queries and alias == 'boxes'):
        raise ConfigError(
            f'{where}: what gives the {alias} of a {type(head).__name__} is '
            "not known; use 'neck' or 'backbone', or name the module, one of "
            f'{[n for n, _ in head.named_children()]} below the head')
    return Place(modules, queries=queries,
                 is_map=not queries and not hasattr(model, 'roi_head'))


def _heads(model: nn.Module) -> list[nn.Module]:
    """The heads that give class scores, the main one first."""
    names = ('decode_head', 'bbox_head', 'roi_head.bbox_head',
             'roi_head.mask_head', 'rpn_head')
    found = (_attribute(model, name) for name in names)
    return [head[-1] if isinstance(head, nn.ModuleList) else head
            for head in found if isinstance(head, nn.Module)]


def _queries(model: nn.Module, head: nn.Module) -> int:
    """The number of object queries of a DETR-like detector."""
    is_set = hasattr(head, 'cls_branches') or (
        hasattr(head, 'fc_cls') and head is getattr(model, 'bbox_head', None))
    return getattr(model, 'num_queries', 0) if is_set else 0


def _is_sigmoid(head: nn.Module) -> bool:
    if hasattr(head, 'use_sigmoid_cls'):
        return head.use_sigmoid_cls
    losses = [getattr(head, name, None)
              for name in ('loss_cls', 'loss_decode', 'loss_mask')]
    return any(getattr(loss, 'use_sigmoid', False)
               or getattr(loss, 'use_mask', False) for loss in losses)


def _parts(head: nn.Module, names) -> list[nn.Module]:
    for name in names:
        if isinstance(getattr(head, name, None), nn.Module):
            return _modules(getattr(head, name))
    return []


def _modules(module: nn.Module | None) -> list[nn.Module]:
    """A module, or what a list of them holds, each once."""
    if isinstance(module, nn.ModuleList):
        return list(dict.fromkeys(module))
    return [] if module is None else [module]


def _attribute(model: nn.Module, path: str) -> nn.Module | None:
    for name in path.split('.'):
        model = getattr(model, name, None)
    return model
