"""The students and teachers, and what can be tapped in them."""
import copy
import functools
from contextlib import ExitStack
from dataclasses import dataclass, field

import tiny_runs
import torch
from mmengine.registry import MODELS

from mmselfkd.taps import Tap

CLASSES = 7
HEADS = (*tiny_runs.HEADS, 'Segmenter', 'Auxiliary', 'Binary')
PATCHES = {4: 8, 8: 16, 12: 8, 16: 4}  # of a plain transformer of some width
INNER = dict(  # a module of the head that gives one map
    PSPNet='decode_head.bottleneck', FCN='decode_head.convs.0',
    DeepLabV3='decode_head.bottleneck',
    DeepLabV3Plus='decode_head.sep_bottleneck',
    UPerNet='decode_head.fpn_bottleneck', FPN='decode_head.scale_heads.0',
    OCR='decode_head.1.bottleneck', SegFormer='decode_head.fusion_conv',
    Segmenter='decode_head.dec_proj', Auxiliary='decode_head.convs.0',
    Binary='decode_head.convs')
SEVERAL = ('backbone', 'neck', 'neck.layers.0')  # sources of several levels

Shape = tuple[int, int, int]  # channels, height, width


@dataclass
class Places:
    """Sources of one owner, by what they give.

    Attributes:
        maps (list[str]): One level of features each.
        many (list[str]): Several levels of features each.
        scores (list[str]): One level of class scores each.
        shapes (dict[str, list[Shape]]): The levels of each of them.
        has_classifier (bool): Whether one layer makes scores of features.
    """
    maps: list[str]
    many: list[str]
    scores: list[str]
    shapes: dict[str, list[Shape]] = field(default_factory=dict)
    has_classifier: bool = True


def make_model(head: str, width: int, classes: int = CLASSES) -> dict:
    """The config of a model."""
    if head == 'Segmenter':
        return _segmenter(width, classes)
    if head not in ('Auxiliary', 'Binary'):
        model = copy.deepcopy(tiny_runs.segmentor(head, width))
        for one in heads_of(model):
            one['num_classes'] = classes
        return model
    model = copy.deepcopy(tiny_runs.model(width, classes))
    if head == 'Binary':
        for one in (model['decode_head'], model['auxiliary_head']):
            one.update(
                num_classes=2, out_channels=1, threshold=0.3,
                loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True))
    return model


def _segmenter(width: int, classes: int) -> dict:
    """A plain transformer; its head classifies tokens."""
    model = tiny_runs.model(width)
    del model['auxiliary_head']
    dims = 4 * width
    model.update(
        backbone=dict(
            type='VisionTransformer', img_size=(32, 32), embed_dims=dims,
            patch_size=PATCHES[width], num_layers=4, num_heads=2,
            out_indices=(0, 1, 2, 3)),
        decode_head=dict(
            type='SegmenterMaskTransformerHead', in_channels=dims,
            channels=dims, embed_dims=dims, num_layers=1, num_heads=2,
            num_classes=classes, in_index=3,
            loss_decode=dict(type='CrossEntropyLoss')))
    return model


def heads_of(model: dict) -> list[dict]:
    """Those of a cascade, the auxiliary one first."""
    head = model['decode_head']
    first = [model['auxiliary_head']] if 'auxiliary_head' in model else []
    return first + (head if isinstance(head, list) else [head])


def see(model: dict, bands: int) -> None:
    """Let a model take images of so many channels."""
    if bands != 3:
        model['backbone']['in_channels'] = bands
        model['data_preprocessor'].update(  # the host knows 1 or 3 numbers
            mean=[100.], std=[50.], bgr_to_rgb=False)


@functools.cache
def _places_of(head: str, width: int, classes: int,
               size: tuple[int, int]) -> Places:
    maps = ['features', INNER[head]]
    maps += [f'backbone[{i}]' for i in range(-4, 4)]
    many = ['backbone']
    if head == 'SegFormer':  # tokens whose grid is known
        maps += ['backbone.layers.1.1.0', 'backbone.layers.2.2']
    elif head == 'Segmenter':
        maps += ['backbone.layers.1', 'backbone.layers.3']
    else:
        maps += ['backbone.stem', 'backbone.maxpool', 'backbone.layer1',
                 'backbone.layer4.1', 'backbone.layer2.0.relu[1]',
                 'backbone.layer3.1.relu[-2]', 'backbone.layer3.0.conv2']
    if head == 'FPN':
        maps += ['neck[0]', 'neck[-1]', 'neck.fpn_convs.2',
                 'neck.lateral_convs.1.conv']
        many += ['neck']
    last = 'decode_head.1' if head == 'OCR' else 'decode_head'
    classifier = 'mask_norm' if head == 'Segmenter' else 'conv_seg'
    places = Places(maps, many, ['logits', f'{last}.{classifier}'],
                    has_classifier=head != 'Segmenter')
    model = MODELS.build(
        dict(make_model(head, width, classes), _scope_='mmseg'))
    with torch.no_grad(), ExitStack() as resources:
        taps = {source: Tap(model, source, 'key', resources)
                for source in [*maps, *many, *places.scores]}
        for tap in taps.values():
            tap.open()
        model(torch.rand(2, 3, *size), mode='tensor')
        levels = {source: tap.take((2, 3, *size))
                  for source, tap in taps.items()}
    places.shapes = {source: [tuple(level.shape[1:]) for level in found]
                     for source, found in levels.items()}
    if head == 'Segmenter':  # the tokens are the map that is made of them
        for layer in (1, 3):
            assert torch.equal(levels[f'backbone.layers.{layer}'][0],
                               levels[f'backbone[{layer}]'][0])
    return places


def places_of(head: str, width: int, size: tuple[int, int],
              classes: int = CLASSES) -> Places:
    """Sources that a model has, as student and as teacher.

    Their shapes are those of a forward pass, so that losses can be asked
    what they take.
    """
    with torch.random.fork_rng():
        return copy.deepcopy(_places_of(head, width, classes, size))
