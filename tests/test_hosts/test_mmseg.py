"""Where the sources of a segmentor point, and how they are read."""
from contextlib import ExitStack

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mmselfkd.errors import ConfigError
from mmselfkd.hosts import Host, MMSegHost, Reading, host_of
from mmselfkd.hosts.tokens import token_grid
from mmselfkd.taps import Tap


def place(model, source):
    return host_of(model).place(model, source, f'key = {source!r}')


def take(model, source, inputs, **kwargs):
    """What a tap gives of a forward pass."""
    tap = Tap(model, source, 'key', ExitStack())
    tap.open()
    model(inputs, mode='tensor', **kwargs)
    return tap.take(inputs.shape)


@pytest.fixture
def model(tiny):
    return MODELS.build(dict(tiny.model(4), _scope_='mmseg')).eval()


def test_a_segmentor(model):
    host = host_of(model)
    assert isinstance(host, MMSegHost)
    head = model.decode_head
    logits = place(model, 'logits')
    assert logits.modules == [head.conv_seg] and logits.argument is None
    assert logits.reading == Reading('classes', 'softmax', 7)
    features = place(model, 'features')
    assert features.modules == [head.conv_seg] and features.argument == 0
    assert features.dropout is head.dropout and features.reading is None
    assert place(model, 'pyramid').modules == [model.backbone]
    # the path of the same module means the same
    path = place(model, 'decode_head.conv_seg')
    assert path.reading == logits.reading
    auxiliary = place(model, 'auxiliary_head.conv_seg')
    assert auxiliary.reading == logits.reading
    with pytest.raises(ConfigError, match="key = 'depth'.*conv_depth"):
        place(model, 'depth')
    assert host.num_classes(model) == 7 and host.ignore_index(model) == 255
    assert not host.has_fixed_strides(model)


@pytest.mark.parametrize('loss, activation', [
    (dict(type='CrossEntropyLoss'), 'softmax'),
    (dict(type='CrossEntropyLoss', use_sigmoid=True), 'sigmoid'),
    ([dict(type='CrossEntropyLoss', loss_name='loss_ce'),
      dict(type='DiceLoss', loss_name='loss_dice')], 'softmax'),
    (dict(type='DiceLoss'), 'sigmoid')])
def test_activation_is_that_of_the_head(tiny, loss, activation):
    """Of an overlap loss only where there is no other."""
    cfg = tiny.model(4)
    cfg['decode_head']['loss_decode'] = loss
    model = MODELS.build(dict(cfg, _scope_='mmseg'))
    assert place(model, 'logits').reading.activation == activation


def test_the_last_head_of_a_cascade(tiny):
    cfg = tiny.model(4)
    cfg.update(type='CascadeEncoderDecoder', num_stages=2, decode_head=[
        cfg['decode_head'], dict(
            type='OCRHead', in_channels=32, in_index=3, channels=8,
            ocr_channels=4, num_classes=7)])
    model = MODELS.build(dict(cfg, _scope_='mmseg'))
    assert place(model, 'logits').modules == [model.decode_head[1].conv_seg]


def test_what_teaches_needs_no_auxiliary_head(model):
    assert host_of(model).remove_unused(model) == ('auxiliary_head', )
    assert not hasattr(model, 'auxiliary_head')


def test_labels_of_a_sample():
    host, sample = MMSegHost(), SegDataSample()
    assert host.class_map(sample) is None and host.boxes(sample) is None
    sample.gt_sem_seg = PixelData(data=torch.arange(6).view(1, 2, 3))
    assert host.class_map(sample).tolist() == [[0, 1, 2], [3, 4, 5]]
    copied, = host.snapshot([sample])
    sample.gt_sem_seg.data = sample.gt_sem_seg.data * 0
    assert host.class_map(copied).tolist() == [[0, 1, 2], [3, 4, 5]]
    bare, = host.without_labels([copied])
    assert host.class_map(bare) is None
    assert host.without_labels(None) is host.snapshot(None) is None


class Depth(nn.Module):

    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 1)
        self.decode_head = nn.Module()
        self.decode_head.conv_depth = nn.Conv2d(4, 1, 1)


def test_depth():
    model = Depth()
    head = model.decode_head
    depth = place(model, 'depth')
    assert depth.modules == [head.conv_depth]
    assert depth.reading == Reading('values')
    entry = place(model, 'features')
    assert entry.modules == [head.conv_depth] and entry.argument == 0
    assert entry.dropout is None
    head.dropout = nn.Dropout2d()
    assert place(model, 'features').dropout is head.dropout
    assert place(model, 'pyramid').modules == [model.backbone]
    with pytest.raises(ConfigError, match="use 'depth'"):
        place(model, 'logits')


def test_the_pixel_loss_of_a_head_that_classifies_masks():
    """That of a stand-in, of its classes and of what it ignores."""
    model = nn.Module()
    model.decode_head = type('MaskFormerHead', (nn.Module, ), {})()
    vars(model.decode_head).update(
        num_classes=3, ignore_index=1, align_corners=False, channels=4)
    loss = MMSegHost().pixel_loss(model, 'key')
    assert loss.ignore_index == 1
    scores = torch.randn(1, 3, 2, 2)
    label = torch.tensor([[[0, 1], [1, 2]]])
    taken = torch.nn.functional.cross_entropy(
        scores, label, ignore_index=1, reduction='sum')
    torch.testing.assert_close(
        loss.value(scores, [(label, 1.)]), taken / 4)  # mmseg's mean


def test_a_model_of_no_host():
    """Any module is a source; what is misspelt has a nearest one."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    host = host_of(model)
    assert type(host) is Host and host.aliases == ()
    assert place(model, '0').modules == [model[0]]
    assert place(model, '0').reading is None
    with pytest.raises(ConfigError, match="key = 'logits'.*no module"):
        place(model, 'logits')


class Transformer(nn.Module):
    """A ViT of mmpretrain's shape: a class token in front of the patches.

    Args:
        cls_token (bool): Whether there is one.
        merges (int): How often the grid is halved.
        rounds_up (bool): Whether what is no whole patch is padded to one.
    """

    def __init__(self, cls_token=True, merges=0, rounds_up=False):
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.projection = nn.Conv2d(3, 5, 4, 4)
        if cls_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, 5))
        self.block = nn.Identity()
        self.merges, self.rounds_up = merges, rounds_up

    def forward(self, inputs, samples=None, mode='tensor'):
        if self.rounds_up:
            inputs = nn.functional.pad(
                inputs, (0, -inputs.shape[3] % 4, 0, -inputs.shape[2] % 4))
        x = self.patch_embed.projection(inputs)
        for _ in range(self.merges):
            x = nn.functional.avg_pool2d(x, 2, ceil_mode=self.rounds_up)
        self.map = x
        tokens = x.flatten(2).transpose(1, 2)
        if hasattr(self, 'cls_token'):
            tokens = torch.cat(
                [self.cls_token.expand(len(x), 1, 5), tokens], 1)
        return self.block(tokens)


@pytest.mark.parametrize('cls_token', [True, False])
@pytest.mark.parametrize('merges', [0, 1, 2])
@pytest.mark.parametrize('rounds_up', [True, False])
@pytest.mark.parametrize('size', [(16, 16), (16, 40), (18, 22)])
def test_tokens_of_a_grid_become_a_map(cls_token, merges, rounds_up, size):
    """Class tokens have no place; merging layers halve the grid."""
    model = Transformer(cls_token, merges, rounds_up)
    level, = take(model, 'block', torch.rand(2, 3, *size))
    assert torch.equal(level, model.map)


def test_tokens_without_a_grid_stay_in_a_row():
    model = Transformer()
    model.patch_embed.projection = nn.Identity()
    model.forward = lambda inputs, mode: model.block(torch.rand(2, 7, 5))
    level, = take(model, 'block', torch.rand(2, 3, 16, 16))
    assert level.shape == (2, 5, 7, 1)


@pytest.mark.parametrize('said, height', [
    (dict(patch_size=4), 2), (dict(patch_size=(2, 4)), 4),
    (dict(patch_size=[2, 4]), 4), (dict(patch_sizes=[7], strides=[4]), 2)])
def test_where_a_transformer_says_its_patch_size(said, height):
    model = nn.Module()
    model.part = nn.Module()
    vars(model.part).update(said, num_prefix_tokens=2)
    assert token_grid(model, 'part', 2 + height * 3, (8, 12)) == (
        height, 3, 2)
