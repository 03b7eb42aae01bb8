"""What a preprocessor says of the input, and modules by their names."""
import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmseg.models import SegDataPreProcessor
from torch import nn

from mmselfkd.hosts import InputFormat, attribute
from mmselfkd.hosts.places import watched_modules

MEAN, STD = [1., 2., 3.], [4., 5., 6.]


class Upstream(nn.Module):
    """With the names of the original mmseg."""

    _enable_normalize, channel_conversion = True, True
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    size_divisor, pad_val = 16, 7


@pytest.mark.parametrize('preprocessor, swapped, pad_value, multiple', [
    (Upstream(), True, 7, 16),
    (SegDataPreProcessor(MEAN, STD, size=(8, 8), pad_val=7), False, 7, 1),
    (SegDataPreProcessor(MEAN, STD, size_divisor=16, bgr_to_rgb=True),
     True, 0, 16),
    (SegDataPreProcessor(MEAN, STD, size=(8, 8), rgb_to_bgr=True,
                         test_cfg=dict(size_divisor=32)), True, 0, 32),
    (DetDataPreprocessor(MEAN, STD, pad_size_divisor=32, pad_value=9,
                         bgr_to_rgb=True), True, 9, 32),
    (DetDataPreprocessor(MEAN, STD), False, 0, 1)])
def test_what_a_preprocessor_says(preprocessor, swapped, pad_value, multiple):
    found = InputFormat.of(preprocessor)
    mean, std = found.statistics()
    assert mean.flatten().tolist() == MEAN and std.flatten().tolist() == STD
    assert mean.shape == std.shape == (3, 1, 1)
    assert (found.is_swapped, found.pad_value, found.multiple) == (
        swapped, pad_value, multiple)


@pytest.mark.parametrize('preprocessor', [None, DetDataPreprocessor()])
def test_where_nothing_is_normalised(preprocessor):
    mean, std = InputFormat.of(preprocessor).statistics()
    assert torch.equal(mean, torch.zeros(1, 1, 1))
    assert torch.equal(std, torch.ones(1, 1, 1))


def test_a_module_by_its_path():
    inner = nn.ModuleList([nn.Linear(1, 1), nn.ReLU()])
    model = nn.ModuleDict(dict(parts=inner))
    model.branch = inner
    for path, found in (
            ('branch', inner), ('branch.0', inner[0]),
            ('branch.-1', inner[1]), ('branch.2', None),
            ('absent.x', None), ('branch.0.bias', inner[0].bias)):
        assert attribute(model, path) is found
    twice = nn.ModuleList([inner[0], inner[1], inner[0]])
    assert watched_modules(twice) == [inner[0], inner[1]]
    assert watched_modules(inner[0]) == [inner[0]]
    assert watched_modules(None) == []
