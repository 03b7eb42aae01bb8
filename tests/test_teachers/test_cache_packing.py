"""What is stored of a level, and how far off it is when it is read."""
import math

import pytest
import torch

from mmselfkd.teachers.cache_packing import Packing, unpacked


def round_trip(level, precision='fp32', top_k=None, classes=None):
    packing = Packing.of(level, 'neck[0]/1', precision, top_k, classes)
    parts = packing.pack(level)
    assert list(parts) == packing.parts()
    images = [{name: part[i] for name, part in parts.items()}
              for i in range(len(level))]
    return unpacked({'neck[0]': [packing]}, images, ['neck[0]'])['neck[0]'][0]


def strided(order):
    """Numbers whose dimensions lie in memory in this order."""
    level = torch.randn(2, 3, 4, 5)
    back = [order.index(i) for i in range(4)]
    return level.permute(order).contiguous().permute(back)


@pytest.mark.parametrize('order', [(0, 1, 2, 3), (0, 2, 3, 1), (2, 0, 3, 1)])
@pytest.mark.parametrize('dtype', [torch.float, torch.half, torch.bfloat16])
def test_fp32_is_the_level_itself(order, dtype):
    """Its type and how it lies in memory, which sums depend on, included."""
    level = strided(order).to(dtype)
    found = round_trip(level)
    assert torch.equal(found, level) and found.dtype == dtype
    assert found.stride() == level.stride()
    if dtype != torch.bfloat16:
        assert torch.equal(round_trip(level, 'fp16'), level.half().to(dtype))


def test_of_what_is_no_map():
    for shape in (2, 6, 7, 1), (2, 6), (2, 5, 3):
        level = torch.randn(shape)
        assert torch.equal(round_trip(level), level)


@pytest.mark.parametrize('classes, anchors, top_k', [
    (19, 1, 5), (19, 1, 18), (7, 3, 2), (300, 1, 4)])
@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
def test_the_largest_scores(classes, anchors, top_k, precision):
    """Those kept are right, of the others the mass; by plain loops."""
    scores = 3 * torch.randn(2, classes * anchors, 4, 3)
    found = round_trip(scores, precision, top_k, classes)
    close = dict(abs=1e-6 if precision == 'fp32' else 5e-3)
    pairs = [x.unflatten(1, (anchors, classes)).double().softmax(2).movedim(
        2, -1).reshape(-1, classes) for x in (scores, found)]
    for before, after in zip(*pairs):
        order = before.argsort(descending=True)
        kept, others = order[:top_k], order[top_k:]
        assert after[kept].tolist() == pytest.approx(
            before[kept].tolist(), **close)
        rest = float(before[others].sum())
        assert after[others].tolist() == pytest.approx(
            [rest / len(others)] * len(others), **close)
        total_variation = float((after - before).abs().sum()) / 2
        assert total_variation <= rest + 5e-3 * (precision == 'fp16') + 1e-6
        if top_k == classes - 1:
            assert total_variation == pytest.approx(0, **close)


def test_bytes_of_the_largest_scores():
    level = torch.randn(1, 19, 8, 8)
    parts = Packing.of(level, '', 'fp16', 5).pack(level)
    assert sum(p.numel() * p.element_size() for p in parts.values()) == (
        64 * (5 * 2 + 5 * 1 + 2))


def test_what_fp16_cannot_hold_is_refused():
    level = torch.tensor([[[[7e4]]]])
    with pytest.raises(ValueError, match="7e.04 is too large for fp16; say "
                       "precision='fp32'"):
        Packing.of(level, 'a', 'fp16').pack(level)
    endless = torch.tensor([[[[math.inf]]]])
    assert torch.equal(round_trip(endless, 'fp16'), endless)
