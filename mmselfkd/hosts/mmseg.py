"""mmsegmentation: segmentors and depth estimators."""
import copy
import inspect
import operator
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import ConfigError
from .building import build_neck, build_registered
from .heads import (
    VOID,
    HeadSpec,
    Kind,
    activation_of,
    find_head_spec,
    ignored_label,
    own_label,
    register_head,
)
from .host import ON_FEATURES, Host, PixelLoss, Refinement
from .places import InputFormat, Model, Place, Reading
from .tokens import token_grid

# backbones that take images of one size only, and the attribute with it
FIXED_SIZE = dict(BEiT='img_size', MAE='img_size')
# which map a backbone gives in eval mode, of the several of training
MAIN_MAP = dict(DDRNet=1, PIDNet=1)


class MMSegHost(Host):
    """A model with a ``decode_head``, and a backbone in front of it.

    - ``logits``: what the classifier of the main head gives, before any
      resize; of a mask classifier the logarithm of the class probabilities
      of each pixel;
    - ``features``: what enters that classifier, in front of its dropout;
    - ``pyramid``: the stages of the backbone;
    - ``depth``: the depth map of a depth head, in metres.
    """

    aliases = ('logits', 'features', 'pyramid', 'depth')

    def owns(self, model: Model) -> bool:
        return isinstance(getattr(model, 'decode_head', None), nn.Module)

    def heads(self, model: Model) -> list[nn.Module]:
        """The main head; of a cascade the last that gives maps."""
        head = model.decode_head
        if not isinstance(head, nn.ModuleList):
            return [head]
        maps = [h for h in head if not _is_point_head(h)]
        return maps[:-2:-1] if maps else [head[-1]]

    def alias(self, model: Model, name: str, where: str) -> Place | None:
        if name == 'pyramid':
            return _stages(model)
        head = self.heads(model)[0]
        if name == 'features':
            return self._features(model, head, where)
        place = self._output(model, head, (
            'depth' if name == 'depth' else 'classes'))
        if place is None:
            self._refuse(model, head, name, where)
        return place

    def place(self, model: Model, path: str, where: str) -> Place:
        if path == 'backbone' and hasattr(model, 'image_encoder'):
            return _stages(model)
        return super().place(model, path, where)

    def known_places(self, model: Model) -> list[Place]:
        stages = [] if _backbone(model) is None else [_stages(model)]
        return stages + [_in_head(model, place)
                         for place in super().known_places(model)]

    def classifier(self, model: Model) -> nn.Module | None:
        head = self.heads(model)[0]
        if (self._output(model, head, 'features') is not None
                or hasattr(model, 'text_encoder')):
            return None  # features are not what enters one layer
        spec = find_head_spec(head)
        place = spec and spec.place(head, 'classes')
        if not place or place.select is not None or len(place.modules) != 1:
            return None
        return place.modules[0]

    def num_classes(self, model: Model) -> int | None:
        return getattr(self.heads(model)[0], 'num_classes', None)

    def ignore_index(self, model: Model) -> int | None:
        return _void_label(self.heads(model)[0])

    def class_map(self, sample: Any) -> torch.Tensor | None:
        label = getattr(sample, 'gt_sem_seg', None)
        return None if label is None else label.data.squeeze(0)

    def remove_unused(self, model: Model) -> tuple[str, ...]:
        model._modules.pop('auxiliary_head', None)
        return ('auxiliary_head', )

    def run_to_predict(self, model: Model, inputs: torch.Tensor,
                       samples: Any) -> None:
        """The whole image at once, whatever ``test_cfg`` says."""
        model.encode_decode(inputs, [
            dict(sample.metainfo, img_shape=tuple(inputs.shape[2:]),
                 pad_shape=tuple(inputs.shape[2:]),
                 batch_input_shape=tuple(inputs.shape[2:]))
            for sample in samples])

    def input_format(self, model: Model) -> InputFormat:
        form = super().input_format(model)
        backbone = getattr(model, 'backbone', None)
        for cls in type(backbone).__mro__:
            if cls.__name__ in FIXED_SIZE:
                size = getattr(backbone, FIXED_SIZE[cls.__name__])
                size = (size, size) if isinstance(size, int) else tuple(size)
                return InputFormat(form.mean, form.std, form.is_swapped,
                                   form.pad_value, form.multiple, size)
        return form

    def refinement(self, student: Model, levels: list[torch.Tensor],
                   neck: dict | None, head: dict | None,
                   key: str) -> Refinement:
        theirs = self._pixel_head(student, key)
        network: Model = nn.Module()
        norm = dict(norm_cfg=theirs.norm_cfg) if theirs.norm_cfg else {}
        network.neck = build_neck(levels, neck, f'{key}.neck', 'mmseg',
                                  **norm)
        with torch.no_grad():
            refined = copy.deepcopy(network.neck)(levels)
        network.decode_head = _head_like(theirs, refined, head, key)
        value = self.pixel_loss(student, key).value

        def losses(levels: list[torch.Tensor],
                   samples: Any) -> dict[str, torch.Tensor]:
            own = network.decode_head
            if type(own).loss is type(theirs).loss and _is_plain(theirs):
                return own.loss(network.neck(levels), samples, None)
            scores = own.forward(network.neck(levels))
            maps: list[Any] = [self.class_map(s) for s in samples]
            label = torch.stack(maps)
            return dict(loss_seg=value(scores, [(label, 1.)]))

        return Refinement(network, losses)

    def pixel_loss(self, student: Model, key: str) -> PixelLoss:
        head = self._pixel_head(student, key)
        ignored = _void_label(head)

        def value(scores: torch.Tensor,
                  labels: Sequence[tuple[torch.Tensor, float]]
                  ) -> torch.Tensor:
            scores = F.interpolate(
                scores, size=labels[0][0].shape[1:], mode='bilinear',
                align_corners=head.align_corners)
            total = scores.new_zeros(())
            for label, share in labels:
                weight = None if head.sampler is None else (
                    head.sampler.sample(scores, label[:, None]))
                total = total + share * sum(
                    loss(scores, _in_words_of(loss, label, ignored),
                         **_accepted(loss, weight=weight,
                                     ignore_index=head.ignore_index))
                    for loss in _class_losses(head))
            return total

        return PixelLoss(ignored, head.norm_cfg, value)

    def _pixel_head(self, model: Model, key: str) -> Model:
        """The head whose losses are of the class scores of each pixel.

        Of a head that classifies masks, whose losses are of matched masks, a
        stand-in of the same classes, with a cross entropy.

        Raises:
            ConfigError: The model gives no class scores.
        """
        head: Model = self.heads(model)[0]
        if self._output(model, head, 'classes') is None:
            raise ConfigError(
                f'{key}: needs class scores of each pixel, and a '
                f'{type(head).__name__} has no `{_path_of(model, head)}.'
                'conv_seg` that gives them; use another method, such as '
                'TFDHook, or register the head by '
                'mmselfkd.hosts.register_head')
        head = getattr(head, 'kernel_generate_head', head)  # K-Net's own
        names = {cls.__name__ for cls in type(head).__mro__}
        if 'BaseDecodeHead' in names and 'SideAdapterCLIPHead' not in names:
            return head
        width = getattr(head, 'channels', None) or (
            head.query_embed.embedding_dim)
        return build_registered(dict(
            type='FCNHead', num_convs=0, in_channels=width, channels=width,
            num_classes=head.num_classes, ignore_index=head.ignore_index,
            align_corners=head.align_corners, norm_cfg=dict(type='BN')),
            'mmseg', key)

    def _output(self, model: Model, head: Model, kind: Kind) -> Place | None:
        """Where the head gives what is asked for; None: not known."""
        spec = find_head_spec(head) or HeadSpec(depth='conv_depth')
        place = spec.place(head, kind)
        if kind == 'classes' and hasattr(model, 'text_encoder'):
            place = _of_texts(model, head)
        return None if place is None else _in_head(model, place)

    def _features(self, model: Model, head: Model,
                  where: str) -> Place:
        place = self._output(model, head, 'features')
        if place is not None:
            return place
        place = self._output(model, head, 'classes') or self._output(
            model, head, 'depth')
        if place is None:
            self._refuse(model, head, 'features', where)
        return _in_head(model, Place(
            place.modules[:1], argument=0,
            dropout=getattr(head, 'dropout', None)))

    def _refuse(self, model: Model, head: Model, name: str,
                where: str) -> NoReturn:
        if name != 'depth' and self._output(model, head, 'depth'):
            hint = "it estimates depth; use 'depth' or 'features'"
        elif name == 'depth':
            hint = "it estimates none; use 'logits' or 'features'"
        else:
            children = [child for child, _ in head.named_children()]
            hint = (f'name the module instead, one of {children} below '
                    f'{_path_of(model, head)}, or register the head by '
                    f'mmselfkd.hosts.register_head, or {ON_FEATURES}')
        kind, wanted = ('depth', 'conv_depth') if name == 'depth' else (
            'classes', 'conv_seg')
        spec = find_head_spec(head)
        missing = '' if spec is None else spec.missing(head, kind)
        if missing:
            wanted = getattr(spec, kind)
        raise ConfigError(
            f'{where}: {type(head).__name__} has no '
            f'`{_path_of(model, head)}.{wanted}` that gives what this alias '
            f'stands for{missing and f" ({missing})"}; {hint}')


def _in_head(model: Model, place: Place) -> Place:
    """A place in a head.

    Tokens there are those of the backbone; a cascade runs a head once more
    for the one behind it, and the last run counts.
    """
    place.grid = lambda tokens, size: token_grid(
        model, 'decode_head', tokens, size)
    if place.select is None:
        place.select = operator.itemgetter(-1)
    return place


def _backbone(model: Model) -> Model | None:
    """SAN calls it ``image_encoder``; a self-teacher has none."""
    return getattr(model, 'backbone', getattr(model, 'image_encoder', None))


def _stages(model: Model) -> Place:
    """The backbone's maps, the main one last.

    A class token beside each of them is left out.
    """
    backbone = _backbone(model)
    assert backbone is not None
    main = next((MAIN_MAP[cls.__name__] for cls in type(backbone).__mro__
                 if cls.__name__ in MAIN_MAP), None)

    def select(values: list) -> list[torch.Tensor]:
        stages = values[-1]
        if isinstance(stages, torch.Tensor):
            return [stages]
        if isinstance(stages, dict):
            stages = list(stages.values())
        if getattr(backbone, 'output_cls_token', False):
            stages = [stage[0] for stage in stages]
        if main is None:
            return list(stages)
        return [*stages[:main], *stages[main + 1:], stages[main]]

    return Place([backbone], select=select, grid=lambda tokens, size:
                 token_grid(model, 'backbone', tokens, size))


def _path_of(model: Model, head: Model) -> str:
    """``decode_head``, or ``decode_head.1`` in a cascade."""
    return next((name for name, module in model.named_modules()
                 if module is head), 'decode_head')


def _is_point_head(head: Model) -> bool:
    return any(cls.__name__ == 'PointHead' for cls in type(head).__mro__)


def _is_plain(head: Model) -> bool:
    """Whether the losses of a head are all of one class map."""
    return all(_accepts(loss, 'weight') and _accepts(loss, 'ignore_index')
               for loss in _class_losses(head)) and (
                   len(_class_losses(head)) == len(_losses(head)))


def _losses(head: Model) -> list[nn.Module]:
    losses = head.loss_decode
    return list(losses) if isinstance(losses, nn.ModuleList) else [losses]


def _class_losses(head: Model) -> list[nn.Module]:
    """The losses that a head computes of its main class map.

    DDRNet's and PIDNet's heads have a list with one loss for each branch.
    """
    losses = _losses(head)
    for cls in type(head).__mro__:
        if cls.__name__ in BRANCH_LOSSES:
            return [losses[i] for i in BRANCH_LOSSES[cls.__name__]]
    return losses


# which of `loss_decode` is for the scores of `conv_seg`
BRANCH_LOSSES = dict(DDRHead=(0, ), PIDHead=(1, ))


def _void_label(head: Model) -> int:
    """The label that a head ignores, or the usual one."""
    label = ignored_label(head)
    return VOID if label is None else label


def _in_words_of(loss: nn.Module, label: torch.Tensor,
                 ignored: int) -> torch.Tensor:
    """The labels, with the one that a loss itself ignores for ``ignored``."""
    own = own_label(loss)
    return label if own in (None, ignored) else label.masked_fill(
        label == ignored, own)


def _accepts(loss: nn.Module, name: str) -> bool:
    parameters = inspect.signature(loss.forward).parameters
    return name in parameters or any(
        p.kind is p.VAR_KEYWORD for p in parameters.values())


def _accepted(loss: nn.Module, **options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items()
            if _accepts(loss, name)}


def _head_like(theirs: Model, refined: list[torch.Tensor],
               cfg: dict | None, key: str) -> nn.Module:
    """The head; what its config leaves open is the student's head's."""
    cfg = dict(type='SegformerHead') if cfg is None else dict(cfg)
    cfg.setdefault('in_index', list(range(len(refined))))
    index = cfg['in_index']
    channels = [level.shape[1] for level in refined]
    try:
        picked = channels[index] if isinstance(index, int) else [
            channels[i] for i in index]
    except IndexError:
        raise ConfigError(f'{key}.head.in_index = {index!r}: the '
                          f'neck gives {len(refined)} levels') from None
    cfg.setdefault('in_channels', picked)
    for name in ('channels', 'num_classes', 'out_channels', 'threshold',
                 'norm_cfg', 'align_corners', 'ignore_index'):
        cfg.setdefault(name, getattr(theirs, name))
    head = build_registered(cfg, 'mmseg', f'{key}.head')
    if 'loss_decode' not in cfg:
        losses = _class_losses(theirs)
        head.loss_decode = copy.deepcopy(
            theirs.loss_decode if len(losses) == len(_losses(theirs))
            else losses[0])
    if 'sampler' not in cfg:
        head.sampler = copy.copy(theirs.sampler)
    return head


def _of_masks(head: Model) -> Place:
    """Class probabilities of each pixel, of a head that classifies masks."""

    def select(values: list) -> torch.Tensor:
        classes, masks = (outputs[-1] for outputs in values[-1])
        return log_share(classes, masks)

    return Place([head], select=select, reading=Reading(
        'classes', 'softmax', head.num_classes))


def _of_texts(model: Model, head: Model) -> Place:
    """The same of SAN, whose classes are those of texts."""

    def select(values: list) -> torch.Tensor:
        texts, (masks, _), *regions = values
        classes = torch.einsum('bqc,nc->bqn', regions[-1], texts)
        return log_share(classes, masks[-1])

    return Place(
        [model.text_encoder, head.side_adapter_network,
         head.rec_with_attnbias], select=select,
        reading=Reading('classes', 'softmax', head.num_classes))


def log_share(classes: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Logarithm of each class's share of a pixel.

    Args:
        classes (Tensor): Logits (N, Q, K + 1) of the Q masks, the last for
            no object.
        masks (Tensor): Logits (N, Q, h, w).

    Returns:
        Tensor: (N, K, h, w).
    """
    share = torch.einsum('bqc,bqhw->bchw',
                         classes.softmax(-1)[..., :-1], masks.sigmoid())
    return (share / share.sum(1, keepdim=True).clamp(min=1e-6)).clamp(
        min=1e-6).log()


def _mask_features(head: Model) -> Place:
    """The map whose products with the queries are the masks."""
    return Place([head.pixel_decoder], select=lambda values: values[-1][0])


def _side_features(head: Model) -> Place:
    """The same of SAN."""
    return Place([head.side_adapter_network.mask_decoder.pix_mlp],
                 argument=0, select=lambda values: values[-1])


def _of_kernels(head: Model) -> Place:
    """The class maps of the last kernel update of K-Net."""
    first = head.kernel_generate_head
    return Place(
        [head.kernel_update_head[-1]], select=lambda values: values[-1][0],
        reading=Reading('classes', activation_of(first), first.out_channels))


def _vpd_depth(head: Model) -> Place:
    """In metres, which the head makes of what its last layer gives."""
    return Place([head.depth_pred_layer], select=lambda values: (
        values[-1].sigmoid() * head.max_depth), reading=Reading('values'))


register_head('BaseDecodeHead', classes='conv_seg', depth='conv_depth',
              size='out_channels')
register_head('PointHead')  # single points, no map
register_head('MaskFormerHead', classes=_of_masks, features=_mask_features)
register_head('Mask2FormerHead', classes=_of_masks, features=_mask_features)
register_head('IterativeDecodeHead', classes=_of_kernels,
              features='kernel_update_head.-1')
register_head('SegmenterMaskTransformerHead', classes='mask_norm',
              features='patch_proj', size='out_channels')
register_head('SideAdapterCLIPHead', features=_side_features)
register_head('VPDDepthHead', depth=_vpd_depth)

