"""Tokens of the hosts' transformers are maps of the image."""
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))
import hosts_table  # noqa: E402
from shipped_heads import SEGMENTORS  # noqa: E402

from mmselfkd.errors import ConfigError  # noqa: E402
from mmselfkd.taps import Tap  # noqa: E402

VIT = dict(embed_dims=12, num_layers=2, num_heads=2, out_indices=(0, 1))
STAGES = dict(embed_dims=8, num_layers=[1, 1, 1, 1], num_heads=[1, 1, 2, 2])


def vit(patch=16, size=(48, 48), **options):
    return dict(VIT, type='mmseg.VisionTransformer', img_size=size,
                patch_size=patch, **options)


# name -> backbone, the module that gives tokens, the stage that they become,
# and what lies between the two
BACKBONES = dict(
    vit=(vit(), 'layers.1', 1, None),
    vit_of_patch_12=(vit(12), 'layers.1', 1, None),
    vit_without_class_token=(
        vit(with_cls_token=False), 'layers.1', 1, None),
    vit_that_gives_its_class_token=(
        vit(output_cls_token=True), 'layers.1', 1, None),
    beit=(dict(VIT, type='mmseg.BEiT', img_size=(48, 48), patch_size=16),
          'layers.1', 1, None),
    mae=(dict(VIT, type='mmseg.MAE', img_size=(48, 48), patch_size=16),
         'layers.1', 1, None),
    swin=(dict(type='mmseg.SwinTransformer', embed_dims=12, window_size=4,
               depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)),
          'stages.1.blocks.0', 1, 'norm1'),
    mit=(dict(STAGES, type='mmseg.MixVisionTransformer'), 'layers.1.1.0', 1,
         'layers.1.2'),
    pvt=(dict(STAGES, type='mmdet.PyramidVisionTransformer'),
         'layers.1.1.1', 1, 'layers.1.2'),
    mscan=(dict(type='mmseg.MSCAN', embed_dims=[8, 8, 8, 8],
                depths=[1, 1, 1, 1], norm_cfg=dict(type='BN')),
           'block2.0', 1, 'norm2'),
    twins=(dict(type='mmseg.PCPVT', embed_dims=[8, 8, 8, 8],
                num_heads=[1, 1, 1, 1], depths=[1, 1, 1, 1]),
           'position_encodings.1', 1, None))
SQUARE = ('beit', 'mae')  # their position bias knows one size


class Segmentor(nn.Module):

    def __init__(self, backbone):
        super().__init__()
        with DefaultScope.overwrite_default_scope('mmseg'):
            self.backbone = MODELS.build(backbone)
        self.decode_head = nn.Identity()

    def forward(self, inputs):
        return self.backbone(inputs)


@pytest.mark.parametrize('name', BACKBONES)
@pytest.mark.parametrize('size', [(48, 48), (48, 80)])
def test_tokens_are_the_map_of_their_stage(name, size):
    if name in SQUARE and size[0] != size[1]:
        pytest.skip('one size only')
    cfg, source, stage, between = BACKBONES[name]
    model = Segmentor(cfg).eval()
    taps = [Tap(model, f'backbone{rest}', 'key', ExitStack())
            for rest in (f'.{source}', f'[{stage}]')]
    for tap in taps:
        tap.open()
    inputs = torch.rand(2, 3, *size)
    with torch.no_grad():
        model(inputs)
    (tokens, ), (level, ) = (tap.take(inputs.shape) for tap in taps)
    assert taps[0].place.is_map and tokens.shape == level.shape
    if between is not None:
        norm = model.backbone.get_submodule(between)
        tokens = norm(tokens.movedim(1, -1)).movedim(-1, 1)
    assert torch.allclose(tokens, level, atol=1e-5)


def test_class_tokens_are_no_levels():
    model = Segmentor(vit(output_cls_token=True)).eval()
    for source in ('backbone', 'pyramid'):
        tap = Tap(model, source, 'key', ExitStack())
        tap.open()
        model(torch.rand(2, 3, 48, 48))
        levels = tap.take((2, 3, 48, 48))
        assert [tuple(x.shape) for x in levels] == [(2, 12, 3, 3)] * 2
        assert tap.place.is_map


class Registers(nn.Module):
    """A plain transformer with tokens of no place in front."""

    def __init__(self, name, count):
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, 4, 14, 14)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        setattr(self, name, nn.Parameter(torch.zeros(1, count, 4)))
        self.extra = getattr(self, name)
        self.blocks = nn.ModuleList([nn.Identity()])

    def forward(self, inputs):
        tokens = self.patch_embed.proj(inputs).flatten(2).transpose(1, 2)
        first = torch.cat([self.cls_token, self.extra], 1).expand(
            len(tokens), -1, -1)
        return self.blocks[0](torch.cat([first, tokens], 1))


@pytest.mark.parametrize('name', [
    'reg_token', 'register_tokens', 'registers', 'storage_tokens'])
@pytest.mark.parametrize('size', [(48, 80), (70, 42)])
def test_register_tokens_have_no_place(name, size):
    model = nn.Module()
    model.backbone = Registers(name, 3)
    model.forward = model.backbone.forward
    tap = Tap(model, 'backbone.blocks.0', 'key', ExitStack())
    tap.open()
    inputs = torch.rand(2, 3, *size)
    model.forward(inputs)
    level, = tap.take(inputs.shape)
    assert torch.equal(level, model.backbone.patch_embed.proj(inputs))


@pytest.mark.parametrize('size', [(48, 80), (64, 64), (33, 50)])
def test_channels_may_come_last(size):
    model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Identity())
    model[1].forward = lambda x: x.permute(0, 2, 3, 1)
    taps = [Tap(model, str(i), 'key', ExitStack()) for i in range(2)]
    for tap in taps:
        tap.open()
    inputs = torch.rand(2, 3, *size)
    model(inputs)
    (first, ), (last, ) = (tap.take(inputs.shape) for tap in taps)
    assert torch.equal(first, last)


def test_a_tensor_beside_its_size_is_named():
    cfg, *_ = BACKBONES['swin']
    model = Segmentor(cfg).eval()
    tap = Tap(model, 'backbone.stages.1', 'key', ExitStack())
    tap.open()
    model(torch.rand(2, 3, 48, 48))
    with pytest.raises(ConfigError, match=r"'backbone.stages.1\[0\]' or"):
        tap.take((2, 3, 48, 48))


def losses(**sources):
    return {f'loss_{name}': dict(type='NFDLoss', source=source)
            for name, source in sources.items()}


def distilled(steps):
    return {name.rpartition('loss_')[2]: value
            for name, value in steps[0].items() if 'distill' in name}


def test_patches_of_another_size_meet_where_they_lie():
    """Tokens are compared as the maps that the backbone makes of them."""
    student = SEGMENTORS['segmenter_fcn']
    teacher = student.model()
    teacher['backbone'].update(patch_size=12)
    steps = hosts_table.train(student, dict(
        type='mmselfkd.DistillHook',
        teacher=dict(config=dict(model=teacher, default_scope='mmseg'),
                     checkpoint='random'),
        losses=losses(tokens='backbone.layers.11.ffn',
                      maps=['backbone.layers.11.ffn'])))
    values = distilled(steps)
    assert values['tokens'] == values['maps'] > 0


def test_tokens_teach_a_network_of_convolutions():
    teacher = dict(
        config=dict(model=SEGMENTORS['segmenter'].model(),
                    default_scope='mmseg'), checkpoint='random')
    kd = dict(type='KDLoss', ignore_index=None)
    steps = hosts_table.train(SEGMENTORS['fcn'], dict(
        type='mmselfkd.DistillHook', teacher=teacher, losses=dict(
            loss_path=dict(kd, source=dict(
                student='logits', teacher='decode_head.mask_norm')),
            loss_alias=dict(kd, source='logits'))))
    values = distilled(steps)
    assert values['path'] == pytest.approx(values['alias'])


def test_tokens_whose_grid_is_not_known_are_refused_at_unequal_lengths():
    student = SEGMENTORS['segmenter_fcn']
    teacher = student.model()
    teacher['backbone'].update(patch_size=12)
    hook = dict(
        type='mmselfkd.DistillHook',
        teacher=dict(config=dict(model=teacher, default_scope='mmseg'),
                     checkpoint='random'),
        losses=losses(queries='backbone.layers.0.attn.attn.out_proj'))
    with pytest.raises(ConfigError, match='losses.loss_queries.source'):
        hosts_table.train(student, hook)
