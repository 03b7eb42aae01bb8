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
HEADS = (*tiny_runs.HEADS, 'Auxiliary', 'Binary')
INNER = dict(  # a module of the head that gives one map
    PSPNet='decode_head.bottleneck', FCN='decode_head.convs.0',
    DeepLabV3='decode_head.bottleneck',
    DeepLabV3Plus='decode_head.sep_bottleneck',
    UPerNet='decode_head.fpn_bottleneck', FPN='decode_head.scale_heads.0',
    OCR='decode_head.1.bottleneck', SegFormer='decode_head.fusion_conv',
    Auxiliary='decode_head.convs.0', Binary='decode_head.convs')
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
    """
    maps: list[str]
    many: list[str]
    scores: list[str]
    shapes: dict[str, list[Shape]] = field(default_factory=dict)


def make_model(head: str, width: int, classes: int = CLASSES) -> dict:
    """The config of a model."""
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


def heads_of(model: dict) -> list[dict]:
    head = model['decode_head']
    return head if isinstance(head, list) else [head]


@functools.cache
def _places_of(head: str, width: int, classes: int,
               size: tuple[int, int]) -> Places:
    maps = ['features', INNER[head]]
    maps += [f'backbone[{i}]' for i in range(-4, 4)]
    many = ['backbone']
    if head == 'SegFormer':  # tokens whose grid is known
        maps += ['backbone.layers.1.1.0', 'backbone.layers.2.2']
    else:
        maps += ['backbone.stem', 'backbone.maxpool', 'backbone.layer1',
                 'backbone.layer4.1', 'backbone.layer2.0.relu[1]',
                 'backbone.layer3.1.relu[-2]', 'backbone.layer3.0.conv2']
    if head == 'FPN':
        maps += ['neck[0]', 'neck[-1]', 'neck.fpn_convs.2',
                 'neck.lateral_convs.1.conv']
        many += ['neck']
    last = 'decode_head.1' if head == 'OCR' else 'decode_head'
    places = Places(maps, many, ['logits', f'{last}.conv_seg'])
    model = MODELS.build(
        dict(make_model(head, width, classes), _scope_='mmseg'))
    with torch.no_grad(), ExitStack() as resources:
        taps = {source: Tap(model, source, 'key', resources)
                for source in [*maps, *many, *places.scores]}
        for tap in taps.values():
            tap.open()
        model(torch.rand(2, 3, *size), mode='tensor')
        places.shapes = {
            source: [tuple(level.shape[1:]) for level in tap.take(
                (2, 3, *size))] for source, tap in taps.items()}
    return places


def places_of(head: str, width: int, size: tuple[int, int],
              classes: int = CLASSES) -> Places:
    """Sources that a model has, as student and as teacher.

    Their shapes are those of a forward pass, so that losses can be asked
    what they take.
    """
    with torch.random.fork_rng():
        return copy.deepcopy(_places_of(head, width, classes, size))
