"""mmdetection: detectors and instance segmentors."""
import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import ConfigError
from .branches import (
    BRANCHES,
    POSITIVES,
    HeadEnd,
    branches_place,
    is_branches,
    positives_place,
)
from .building import build_neck
from .heads import activation_of, find_head_spec, register_head
from .host import ON_FEATURES, Host, Refinement
from .places import (
    Model,
    Place,
    Reading,
    Size,
    attribute,
    watched_modules,
)

HEADS = ('bbox_head', 'roi_head.bbox_head', 'roi_head.mask_head',
         'mask_head', 'panoptic_head', 'rpn_head')
REGIONS = dict(rois='bbox', mask_rois='mask')  # source: which extractor


class MMDetHost(Host):
    """A model with a ``bbox_head``, ``roi_head`` or ``mask_head``.

    - ``logits``: what the class layer of the head gives: one level for each
      level of the neck; in an RoI head the scores of the RoIs that the
      student samples, by the last stage; in a DETR those of the queries of
      the last decoder layer, the boxes behind them;
    - ``features`` and ``pyramid``: the levels of the neck;
    - ``boxes``: what the box layer of a dense or RoI head gives; in a DETR
      the boxes of the queries;
    - ``branches.3``: what the third convolution of the class and of the box
      branch of a dense head gives, before its activation;
    - ``rois``, ``mask_rois``: the regions that enter the RoI extractors.
    """

    aliases = ('logits', 'features', 'pyramid', 'boxes', BRANCHES, *REGIONS)

    def owns(self, model: Model) -> bool:
        return any(hasattr(model, name) for name in (
            'bbox_head', 'roi_head', 'mask_head', 'panoptic_head',
            'rpn_head'))

    def heads(self, model: Model) -> list[nn.Module]:
        found = (attribute(model, name) for name in HEADS)
        return [head[-1] if isinstance(head, nn.ModuleList) else head
                for head in found if isinstance(head, nn.Module)]

    def place(self, model: Model, path: str, where: str) -> Place:
        if is_branches(path):
            inputs = self.alias(model, 'features', where)
            assert inputs is not None
            return branches_place(
                self.heads(model)[0], path, where, inputs)
        if path == POSITIVES:
            return positives_place(self.heads(model)[0], where)
        found = super().place(model, path, where)
        return _of_queries(model, found) if found.queries else found

    def head_end(self, model: Model, path: str, where: str) -> Any:
        return HeadEnd(self.heads(model)[0], path, where) if is_branches(
            path) else None

    def alias(self, model: Model, name: str, where: str) -> Place | None:
        if name in REGIONS:
            _check_branches(model, where)
            path = f'roi_head.{REGIONS[name]}_roi_extractor'
            modules = watched_modules(attribute(model, path))
            if not modules:
                raise ConfigError(f'{where}: {type(model).__name__} has no '
                                  f'`{path}`; {ON_FEATURES}')
            return Place(modules, argument=1, is_raw=True)
        if name in ('features', 'pyramid'):
            neck = getattr(model, 'neck', None)
            return Place([neck]) if neck is not None else _stages(model)
        return self._output(
            model, 'boxes' if name == 'boxes' else 'classes', name, where)

    def known_places(self, model: Model) -> list[Place]:
        places = super().known_places(model)
        for place in places:
            self._locate(model, place)
        if hasattr(model, 'num_branch'):
            places.append(_stages(model))
        return places

    def is_map(self, model: Model, path: str) -> bool:
        return not _is_regional(path)

    def has_fixed_strides(self, model: Model) -> bool:
        return True

    def num_classes(self, model: Model) -> int | None:
        return getattr(self.heads(model)[0], 'num_classes', None)

    def ignore_index(self, model: Model) -> int | None:
        return -100  # class maps are made of boxes; torch's own choice

    def boxes(self, sample: Any
              ) -> tuple[torch.Tensor, torch.Tensor] | None:
        found = getattr(sample, 'gt_instances', None)
        if found is None or 'bboxes' not in found:
            return None
        boxes = getattr(found.bboxes, 'tensor', found.bboxes)
        return boxes.float().reshape(-1, 4), found.labels

    def anchors(self, model: Model, sizes: Sequence[Size],
                device: Any) -> list[torch.Tensor] | None:
        generator: Any = getattr(
            self.heads(model)[0], 'prior_generator', None)
        if (generator is None or not hasattr(generator, 'base_anchors')
                or set(generator.num_base_priors) != {1}
                or len(sizes) != generator.num_levels):
            return None
        return generator.grid_priors(
            [tuple(size) for size in sizes], device=device)

    def class_map(self, sample: Any) -> torch.Tensor | None:
        label = getattr(sample, 'gt_sem_seg', None)
        if label is None:
            return None
        return getattr(label, 'sem_seg', label).squeeze(0)

    def run(self, model: Model, inputs: torch.Tensor, samples: Any) -> None:
        with _unmasked(model):
            if hasattr(model, 'bbox_head') and hasattr(model, 'mask_head'):
                # mode='tensor' would run the box head twice
                head = model.bbox_head or model.mask_head
                head(model.extract_feat(inputs))
            elif _is_set_head(getattr(model, 'bbox_head', None)):
                # mode='tensor' would call its forward, which no tap sees
                model.bbox_head(**model.forward_transformer(
                    model.extract_feat(inputs), samples))
            else:
                super().run(model, inputs, samples)

    def run_to_predict(self, model: Model, inputs: torch.Tensor,
                       samples: Any) -> None:
        with _unmasked(model):
            model.predict(inputs, samples, rescale=False)

    def regions_for(self, student: Model, path: str) -> list[str]:
        name = path.partition('[')[0]
        head = getattr(student, 'roi_head', None)
        if name in ('logits', 'boxes') and head is not None:
            return ['rois']
        if name.startswith('roi_head.mask'):
            return ['mask_rois']
        return ['rois'] if _is_regional(name) else []

    def run_on_regions(self, model: Model, inputs: torch.Tensor,
                       regions: dict[str, list[torch.Tensor]],
                       paths: dict[str, str]) -> None:
        """A two-stage detector on the RoIs of the student.

        Its own proposals would be others: what it says of them could not be
        compared.
        """
        head = getattr(model, 'roi_head', None)
        if head is None:
            path, key = next(iter(paths.items()))
            raise ConfigError(
                f'{key} = {path!r}: the student gives this of the RoIs that '
                f'it samples, and a {type(model).__name__} looks at none; '
                f'{ON_FEATURES}')
        levels = model.extract_feat(inputs)
        self._check_stages(head, regions, paths)
        with _unmasked(model):
            for name in ('rpn_head', 'semantic_head'):
                if any(path.startswith(name) for path in paths):
                    getattr(model, name)(levels)
        context = _image_context(head, levels)
        runs = dict(rois=head._bbox_forward,
                    mask_rois=getattr(head, '_mask_forward', None))
        for name, run in runs.items():
            # a head with two branches extracts the same regions twice
            each = {id(rois): rois for rois in regions.get(name, ())}
            for stage, rois in enumerate(each.values()):
                takes = inspect.signature(run).parameters
                run(*(stage, ) if 'stage' in takes else (), levels, rois,
                    **{k: v for k, v in context.items() if k in takes})

    @staticmethod
    def _check_stages(head: Model, regions: dict[str, Any],
                      paths: dict[str, str]) -> None:
        """The last stage of a cascade sees no RoI of a one-stage student."""
        rois = regions.get('rois')
        if rois is None or not isinstance(head.bbox_head, nn.ModuleList):
            return
        last = len(head.bbox_head) - 1
        for path, key in paths.items():
            if path in ('logits', 'boxes') and len(rois) <= last:
                layer = 'fc_cls' if path == 'logits' else 'fc_reg'
                raise ConfigError(
                    f'{key} = {path!r}: of the {last + 1} stages of the '
                    "teacher's cascade the last gives this, but the student "
                    f'has RoIs for {len(rois)}; write source=dict(student='
                    f"{path!r}, teacher='roi_head.bbox_head.{len(rois) - 1}"
                    f".{layer}')")

    def refinement(self, student: Model, levels: list[torch.Tensor],
                   neck: dict | None, head: dict | None,
                   key: str) -> Refinement:
        """The student with the neck in place of all in front of its heads."""
        if head is not None:
            raise ConfigError(f"{key}.head = {head!r}: a "
                              "detector's self-teacher has a copy of its own "
                              'heads')
        if hasattr(student, 'num_branch'):
            raise ConfigError(
                f'{key}: a {type(student).__name__} trains each branch of '
                'its backbone on the images, and a self-teacher has no '
                'branches; use another method, such as TFDHook')
        if hasattr(student, 'teacher_model'):
            raise ConfigError(
                f'{key}: a {type(student).__name__} has a teacher of its own, '
                'which looks at the images; use another method, such as '
                'TFDHook')
        front = [getattr(student, name, None)
                 for name in ('backbone', 'neck', 'data_preprocessor')]
        network = copy.deepcopy(
            student, {id(part): nn.Identity() for part in front if part})
        for part in network.children():
            if hasattr(part, 'init_weights'):
                part.init_weights()
        network.neck = build_neck(levels, neck, f'{key}.neck', 'mmdet',
                                  width=1)
        return Refinement(network, lambda levels, samples: network.loss(
            levels, samples))

    def _output(self, model: Model, kind: Literal['classes', 'boxes'],
                name: str, where: str) -> Place:
        head = self.heads(model)[0]
        if getattr(model, 'roi_head', None) is not None:
            _check_branches(model, where)
        if _is_sparse(model):
            raise ConfigError(
                f'{where}: the {name} of a {type(model).__name__} belong to '
                'proposals that it has learnt, which two detectors do not '
                f'share; {ON_FEATURES}')
        spec = find_head_spec(head)
        place = None if spec is None else spec.place(head, kind)
        if place is not None:
            self._locate(model, place)
        if place is None:
            path = next((n for n, m in model.named_modules() if m is head),
                        'the head')
            missing = '' if spec is None else spec.missing(head, kind)
            raise ConfigError(
                f'{where}: what gives the {name} of a {type(head).__name__} '
                f'is not known{missing and f" ({missing})"}; name the module, '
                f'one of {[n for n, _ in head.named_children()]} below '
                f'{path}, or '
                'register the head by mmselfkd.hosts.register_head, or '
                f'{ON_FEATURES}')
        return place

    def _locate(self, model: Model, place: Place) -> None:
        """Whether a head's output is of queries, RoIs or positions."""
        module = place.modules[0]
        head: Model = getattr(model, 'bbox_head', None)
        if _is_set_head(head) and module in set(head.modules()):
            queries = getattr(model, 'num_queries', 0)
            place.queries, place.is_map = queries, False
        if any(part is module and _is_regional(name)
               for name, part in model.named_modules()):
            place.is_map = False


def _is_regional(path: str) -> bool:
    """Whether a module looks at regions: all in an RoI head but one."""
    return path.startswith('roi_head.') and not path.startswith(
        'roi_head.semantic_head')


def _check_branches(model: Model, where: str) -> None:
    """A TridentNet has RoIs of each branch, a teacher has one branch.

    Raises:
        ConfigError: It is one.
    """
    if hasattr(model, 'num_branch'):
        raise ConfigError(
            f'{where}: a {type(model).__name__} trains on RoIs of each of '
            f'the {model.num_branch} branches of its backbone, and a teacher '
            f'in eval mode has one; {ON_FEATURES}')


def _stages(model: Model) -> Place:
    """The backbone's levels; of a TridentNet those of its test branch.

    In training the branches follow each other in the batch.
    """
    backbone, count = model.backbone, getattr(model, 'num_branch', 1)
    if count == 1:
        return Place([backbone])
    branch = max(model.test_branch_idx, 0)

    def select(values: list) -> list[torch.Tensor]:
        is_all = backbone.training or model.test_branch_idx == -1
        return [level.chunk(count)[branch] if is_all else level
                for level in values[-1]]

    return Place([backbone], select=select)


@contextmanager
def _unmasked(model: Model) -> Iterator[None]:
    """Guided anchors: convolutions over the whole map, as in training.

    For speed they leave out, in eval mode, where the first image of the
    batch has no object; what they give there is 0.
    """
    with ExitStack() as resources:
        for module in model.modules():
            if type(module).__name__ == 'MaskedConv2d':
                resources.callback(module.register_forward_pre_hook(
                    lambda module, args: args[:1]).remove)
        yield


def _image_context(head: Model, levels: Any) -> dict[str, torch.Tensor]:
    """What some RoI heads take of the whole image beside the levels."""
    context = {}
    if getattr(head, 'with_semantic', False):
        context['semantic_feat'] = head.semantic_head(levels)[1]
    if getattr(head, 'with_glbctx', False):
        context['glbctx_feat'] = head.glbctx_head(levels)[1]
    return context


def _is_set_head(head: Model | None) -> bool:
    return any(cls.__name__ == 'DETRHead' for cls in type(head).__mro__)


def _is_sparse(model: Model) -> bool:
    return any(cls.__name__ == 'SparseRoIHead'
               for cls in type(getattr(model, 'roi_head', None)).__mro__)


def _of_queries(model: Model, place: Place) -> Place:
    """Class scores and boxes of each query of the last decoder layer.

    The scores come first, then cx, cy, w and h as shares of the image, both
    as the head gives them: ``place`` says which of the two is meant. Queries
    made from labels come first, those of DDQ's dense branch last; both are
    left out.
    """
    head = model.bbox_head

    def select(values: list) -> torch.Tensor:
        last = torch.cat([part[-1] for part in values[-1][:2]], -1)
        dense = getattr(head, 'cache_dict', {}).get(
            'num_dense_queries', 0) if head.training else 0
        return last[:, :last.shape[1] - dense][:, -place.queries:]

    kind = place.reading.kind if place.reading else 'classes'
    return dataclasses.replace(
        place, modules=[head], select=select,
        reading=place.reading if kind == 'classes' else Reading(
            'values', activation_of(head)))


def _yolo(head: Model, kind: str) -> Place:
    """One convolution gives boxes, objectness and classes of each anchor."""
    first, last = (5, None) if kind == 'classes' else (0, 4)

    def select(values: list) -> list[torch.Tensor]:
        return [value.unflatten(1, (-1, head.num_attrib))[
            :, :, first:last].flatten(1, 2) for value in values]

    reading = Reading('classes', 'sigmoid', head.num_classes) if (
        kind == 'classes') else Reading('values')
    return Place(list(head.convs_pred), select=select, reading=reading)


def _corners(kind: str) -> Any:
    """The last of the stacked outputs, top left and bottom right."""

    def place(head: Model) -> Place:
        ends = [getattr(head, f'{corner}_{kind}')[-1]
                for corner in ('tl', 'br')]
        return Place(ends, reading=Reading(
            'classes', 'sigmoid', head.num_classes) if kind == 'heat' else
            Reading('values'))

    return place


def _ssd(head: Model) -> Place:
    """A softmax with a background class for each anchor."""
    return Place(list(head.cls_convs), reading=Reading(
        'classes', activation_of(head), head.cls_out_channels))


def _ssd_boxes(head: Model) -> Place:
    return Place(list(head.reg_convs), reading=Reading('values'))


def _joined(head: Model, classes: str, objectness: str,
            join: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
            ) -> Place:
    """Class scores that a head makes of those of two layers.

    Args:
        head (nn.Module): Runs the layer of the classes first at each level.
        classes (str): The attribute with the layer of the class scores.
        objectness (str): That of what they are joined with.
        join (Callable): Of logits (N, A, K, H, W) and (N, A, 1, H, W), A
            anchors, to logits (N, A, K, H, W).
    """
    size = head.cls_out_channels

    def select(values: list) -> list[torch.Tensor]:
        return [join(scores.unflatten(1, (-1, size)), other.unflatten(
            1, (-1, 1))).flatten(1, 2)
            for scores, other in zip(values[::2], values[1::2])]

    return Place([*watched_modules(getattr(head, classes)),
                  *watched_modules(getattr(head, objectness))],
                 select=select, reading=Reading('classes', 'sigmoid', size))


def _geometric_mean(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The logit of the geometric mean of two probabilities."""
    log = (F.logsigmoid(a) + F.logsigmoid(b)).clamp(max=-1e-6) / 2
    return log - torch.log1p(-log.exp())


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The logit of the product of two probabilities."""
    a, b = torch.broadcast_tensors(a, b)
    return a + b - torch.stack([torch.zeros_like(a), a, b]).logsumexp(0)


def _rtmdet(head: Model) -> Place:
    if head.with_objectness:
        return _joined(head, 'rtm_cls', 'rtm_obj', _geometric_mean)
    return Place(watched_modules(head.rtm_cls), reading=Reading(
        'classes', activation_of(head), head.cls_out_channels))


def _box_classes(head: Model) -> Place | None:
    """Of an RoI head; the probabilities are those of its loss.

    A seesaw loss has two channels of its own for whether there is an object.
    """
    if not hasattr(head, 'fc_cls'):
        return None
    place = Place([head.fc_cls], reading=Reading(
        'classes', activation_of(head)))
    if head.custom_activation and activation_of(head) == 'softmax':
        place.select = lambda values: [
            head.loss_cls.get_activation(value).clamp(min=1e-6).log()
            for value in values]
    return place


def _instances(kind: str) -> Callable[[Model], Place]:
    """CrowdDet: a layer for each object of a RoI, refined where asked."""

    def place(head: Model) -> Place:
        layers = getattr(head, kind + '_ref' * head.with_refine)
        return Place(list(layers), reading=Reading(
            'classes', activation_of(head)) if kind == 'fc_cls' else
            Reading('values'))

    return place


def _semantic(head: Model) -> Place:
    """A class for each pixel, beside the boxes and masks."""
    loss = getattr(head, 'loss_seg', None) or head.criterion

    def class_map(sample: Any) -> torch.Tensor:
        label = sample.gt_sem_seg.sem_seg.squeeze(0)
        merge = getattr(head, '_set_things_to_void', None)  # to one class
        return label if merge is None else merge(label)

    return Place(
        [head.conv_logits], class_map=class_map,
        ignore_index=-100 if loss.ignore_index is None else loss.ignore_index,
        reading=Reading('classes', activation_of(head), head.num_classes))


def _last_stage(kind: Literal['classes', 'boxes']
                ) -> Callable[[Model], Place | None]:
    """Of a cascade of RPN heads."""

    def place(head: Model) -> Place | None:
        last = head.stages[-1]
        spec = find_head_spec(last)
        return None if spec is None else spec.place(last, kind)

    return place


register_head('AnchorHead', classes='conv_cls', boxes='conv_reg')
register_head('AnchorFreeHead', classes='conv_cls', boxes='conv_reg')
register_head('RPNHead', classes='rpn_cls', boxes='rpn_reg')
register_head('CascadeRPNHead', classes=_last_stage('classes'),
              boxes=_last_stage('boxes'))
register_head('RetinaHead', classes='retina_cls', boxes='retina_reg')
register_head('RetinaSepBNHead', classes='retina_cls', boxes='retina_reg')
register_head('GARetinaHead', classes='retina_cls', boxes='retina_reg')
register_head('SABLRetinaHead', classes='retina_cls')
register_head('ATSSHead', classes='atss_cls', boxes='atss_reg')
register_head('DDODHead', classes='atss_cls', boxes='atss_reg')
register_head('GFLHead', classes='gfl_cls', boxes='scales', bins='reg_max')
register_head('TOODHead', boxes='tood_reg', classes=lambda head: _joined(
    head, 'tood_cls', 'cls_prob_module', _geometric_mean))
register_head('VFNetHead', classes='vfnet_cls', boxes='vfnet_reg')
register_head('RepPointsHead', classes='reppoints_cls_out',
              boxes='reppoints_pts_refine_out')
register_head('YOLOFHead', boxes='bbox_pred', classes=lambda head: _joined(
    head, 'cls_score', 'object_pred', _product))
register_head('YOLOXHead', classes='multi_level_conv_cls',
              boxes='multi_level_conv_reg')
register_head('RTMDetHead', classes=_rtmdet, boxes='rtm_reg')
register_head('CenterNetHead', classes='heatmap_head', boxes='wh_head',
              activation='sigmoid', size='num_classes')
register_head('CornerHead', classes=_corners('heat'), boxes=_corners('off'))
register_head('SSDHead', classes=_ssd, boxes=_ssd_boxes)
register_head('YOLOV3Head', classes=lambda head: _yolo(head, 'classes'),
              boxes=lambda head: _yolo(head, 'boxes'))
register_head('SOLOHead', classes='conv_cls')
register_head('BBoxHead', classes=_box_classes, boxes='fc_reg')
register_head('MultiInstanceBBoxHead', classes=_instances('fc_cls'),
              boxes=_instances('fc_reg'))
register_head('FCNMaskHead', classes='conv_logits')
register_head('BaseSemanticHead', classes=_semantic)
register_head('FusedSemanticHead', classes=_semantic)
register_head('ATSSVLFusionHead')  # classes are words of a text
register_head('GroundingDINOHead')  # the same
register_head('DETRHead', classes='fc_cls', boxes='fc_reg')
register_head('DeformableDETRHead', classes='cls_branches',
              boxes='reg_branches')
