"""The presets against the papers' formulas, on several pyramids and crops.

Each preset gives its loss the share of the whole that the paper or the
official code gives it. What is published is written down here once more, in
plain float64.
"""
import math

import pytest
import torch
import torch.nn.functional as F

from mmselfkd import (
    AICSDHook,
    FRSKDHook,
    KADTDHook,
    MixSKDHook,
    NFDHook,
    TFDHook,
)
from mmselfkd.distillation.level_matching import LevelMatcher
from mmselfkd.distillation.loss_config import LossConfig
from mmselfkd.distillation.loss_term import LossTerm
from mmselfkd.hosts import Host
from mmselfkd.hosts.places import Place, Reading
from mmselfkd.layout import BatchLayout

SCORES = Place([], reading=Reading('classes', 'softmax'))
CROPS = [(512, 1024), (512, 512), (96, 160), (64, 64)]
# strides of the levels
PYRAMIDS = dict(
    cifar=(1, 2, 4, 8), resnet=(4, 8, 16, 32), dilated=(4, 8, 8, 8),
    fpn=(8, 16, 32, 64, 128), two=(8, 32))
pyramids = pytest.mark.parametrize('strides', PYRAMIDS.values(), ids=PYRAMIDS)


def value(hook, key, student, teacher, place=None):
    """The weighted term of a preset on these levels."""
    cfg = dict(hook.preset[key], schedule=None, source='logits')
    config = LossConfig(key, cfg, f'losses.{key}', ['teacher'])
    places = [place] if place else ()
    matcher = LevelMatcher(config, student, teacher, places, places)
    image = torch.zeros(len(student[0]), 3, 8, 8, dtype=torch.float64)
    layout = BatchLayout(image, None, Host())
    pairs = matcher(student, teacher, layout)
    term = LossTerm(config, matcher, pairs, image)
    return config.loss_weight * term.value(pairs, None, image, layout)


def levels(strides, size=(64, 64), channels=4, seed=0):
    """Features behind a ReLU."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(
        2, channels * (i + 1), *(-(-side // stride) for side in size),
        generator=generator, dtype=torch.float64).relu()
        for i, stride in enumerate(strides)]


def attention(features):
    a = features.square().mean(1).flatten(1)
    return a / a.norm(dim=1, keepdim=True)


# -- FRSKD ------------------------------------------------------------------


def opposed(strides, size):
    """Levels that are active where the other's are not."""
    ours = [torch.zeros_like(x) for x in levels(strides, size)]
    theirs = [torch.zeros_like(x) for x in ours]
    for one, other in zip(ours, theirs):
        one[..., 0, 0] = 1
        other[..., -1, -1] = 1
    return ours, theirs


def published_frskd(student, teacher):
    """Weight 50, a mean over the positions, a sum over the levels."""
    return 50 * sum((attention(s) - attention(t)).square().mean()
                    for s, t in zip(student, teacher))


@pyramids
@pytest.mark.parametrize('size', CROPS)
def test_frskd_has_the_largest_total_of_the_official_settings(strides, size):
    if min(size) // max(strides) < 2:
        size = 256, 256
    total = value(FRSKDHook, 'loss_at', *opposed(strides, size))
    assert total.item() == pytest.approx(25 / 3)


@pytest.mark.parametrize('strides, size', [
    ((1, 2, 4, 8), (32, 32)),  # classification, CIFAR
    ((4, 8, 16, 32, 64, 128), (512, 512))])  # segmentation
def test_frskd_has_the_size_of_the_official_settings(strides, size):
    maps = opposed(strides, size)
    assert published_frskd(*maps).item() == pytest.approx(25 / 3, rel=5e-3)
    assert value(FRSKDHook, 'loss_at', *maps).item() == pytest.approx(25 / 3)
    # and about as much where each level differs as the others do
    maps = levels(strides, size), levels(strides, size, seed=1)
    ratio = value(FRSKDHook, 'loss_at', *maps) / published_frskd(*maps)
    assert 0.4 < ratio < 2.5


# -- TFD --------------------------------------------------------------------


@pyramids
@pytest.mark.parametrize('size', CROPS[2:])
def test_tfd_is_the_published_mean_over_pairs_and_stages(strides, size):
    stages = levels(strides, size)
    pairs = [(a, b) for i, a in enumerate(stages) for b in stages[i + 1:]]
    expected = 0.005 / len(pairs) * sum(
        F.mse_loss(F.adaptive_avg_pool2d(a, b.shape[2:]), b[:, :a.shape[1]])
        for a, b in pairs)
    assert value(TFDHook, 'loss_inter', stages, stages).item() == (
        pytest.approx(expected.item()))
    expected = 0
    for x in stages:
        order = F.normalize(x, dim=(2, 3)).mean((0, 2, 3)).argsort(
            stable=True, descending=True)
        half = len(order) // 2
        expected += F.mse_loss(x[:, order[half:]], x[:, order[:half]])
    expected *= 0.0004 / len(stages)
    assert value(TFDHook, 'loss_intra', stages, stages).item() == (
        pytest.approx(expected.item()))


# -- NFD --------------------------------------------------------------------


@pyramids
@pytest.mark.parametrize('size', CROPS[2:])
def test_nfd_does_not_grow_with_the_levels(strides, size):
    """Unrelated maps have a correlation of about 0, so 2 (1 - r) is 2."""
    size = [side * 4 for side in size]
    total = value(NFDHook, 'loss_nfd', levels(strides, size),
                  levels(strides, size, seed=1))
    assert total.item() == pytest.approx(
        2 * NFDHook.preset['loss_nfd']['loss_weight'], rel=0.2)


# -- MixSKD -----------------------------------------------------------------


@pytest.mark.parametrize('sizes', [[(8, 8)], [(4, 6), (4, 6), (2, 3)]])
def test_mixskd_discriminator_is_one_mean_over_both_halves(sizes):
    """As on a batch that holds both kinds; D says nothing at the start."""
    student, teacher = (
        [torch.randn(2, 4, *size).double() for size in sizes] for _ in 'st')
    # a discriminator that knows nothing: log 2 for each of the logits
    total = value(MixSKDHook, 'loss_dis', student, teacher)
    assert total.item() == pytest.approx(len(sizes) * math.log(2), rel=0.2)


# -- KA + DTD ---------------------------------------------------------------


def kd_gradient(student, teacher, temperature):
    student = student.clone().requires_grad_()
    q_s, q_t = ((x / temperature).log_softmax(1) for x in (student, teacher))
    loss = temperature**2 * (q_t.exp() * (q_t - q_s)).sum(1, keepdim=True)
    loss.mean().backward()
    return student.grad.flatten()


@pytest.mark.parametrize('size', [(8, 16), (15, 20), (32, 32)])
@pytest.mark.parametrize('scale', [2, 6])
def test_dynamic_temperature_is_not_inert(size, scale):
    """Temperatures that differ, and a gradient of another direction."""
    generator = torch.Generator().manual_seed(0)
    teacher = scale * torch.randn(
        2, 11, *size, generator=generator, dtype=torch.float64)
    share = torch.rand(2, 1, *size, generator=generator, dtype=torch.float64)
    student = share * teacher + (1 - share) * scale * torch.randn(
        2, 11, *size, generator=generator, dtype=torch.float64)

    def spread_and_cosine(cfg):
        loss = LossConfig('loss_kd', dict(cfg, source='logits'), 'x',
                          ['teacher']).loss
        tau = loss.dynamic_temperature(student, teacher, loss.temperature)
        moved = kd_gradient(student, teacher, tau)
        fixed = kd_gradient(student, teacher, loss.temperature)
        return tau.std(), F.cosine_similarity(moved, fixed, dim=0)

    cfg = KADTDHook.preset['loss_kd']
    spread, cosine = spread_and_cosine(cfg)
    assert spread > 5 and cosine < 0.97
    inert = dict(cfg, temperature=2.0,
                 dynamic_temperature=dict(type='FLSW', beta=1.0))
    spread, cosine = spread_and_cosine(inert)
    assert spread < 0.5 and cosine > 0.97


# -- AICSD ------------------------------------------------------------------


def scores(images, classes, size, scale, seed=0):
    """Smooth class maps of a teacher and a student that partly agrees."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(2, images, classes, 9, 9, generator=generator,
                         dtype=torch.float64)
    teacher, other = (scale * F.interpolate(x, size=size, mode='bilinear')
                      for x in coarse)
    return 0.6 * (teacher + other), teacher


@pytest.mark.parametrize('size', [(17, 17), (33, 33), (20, 40)])
def test_aicsd_soft_labels_have_the_official_share(size):
    """10 * mean over N, K, H, W beside the cross entropy through N."""
    student, teacher = scores(6, 21, size, 3.0)
    log_s, log_t = student.log_softmax(1), teacher.log_softmax(1)
    official = 10 * (log_t.exp() * (log_t - log_s)).mean()
    entropy = F.cross_entropy(student, teacher.argmax(1))
    ours = value(AICSDHook, 'loss_kd', [student], [teacher], SCORES)
    assert (ours / entropy).item() == pytest.approx(
        (official / (entropy / len(student))).item())


def official_similarity(logits):
    """As the code that was read has it: along columns, half mirrored."""
    p, classes = logits.softmax(2), logits.shape[1]
    rows = torch.zeros(classes, classes, dtype=logits.dtype)
    for i in range(classes):
        for j in range(i, classes):
            q = p[:, j]
            rows[i, j] = rows[j, i] = (
                q * (q.log() - p[:, i])).sum() / len(logits)
    return F.normalize(rows, dim=1)


@pytest.mark.parametrize('scale', [2.0, 4.0, 8.0])
def test_aicsd_similarity_has_about_the_official_share(scale):
    """Another quantity, so the ratio depends on the scale of the logits."""
    student, teacher = scores(6, 21, (33, 33), scale)
    official = 9500 / 6 * F.mse_loss(*(official_similarity(F.interpolate(
        x, scale_factor=4, mode='bilinear')) for x in (student, teacher)))
    ours = value(AICSDHook, 'loss_icsd', [student], [teacher], SCORES)
    assert 1 / 8 < (ours / (official * 6)).item() < 4
