"""Adapters of channels and sizes, anchors."""
import pytest
import torch
from torch import nn

from mmselfkd.distillation.level_matching import (
    LevelMatcher,
    build_adapters,
    resize_like,
    split_anchors,
)
from mmselfkd.distillation.loss_config import LossConfig
from mmselfkd.errors import ConfigError
from mmselfkd.hosts import Place


def test_convolution_only_where_the_channels_differ():
    student = [torch.rand(1, 4, 3, 5), torch.rand(1, 8, 3, 5)]
    teacher = [torch.rand(1, 6, 3, 5), torch.rand(1, 8, 3, 5)]
    first, second = build_adapters(list(zip(student, teacher)))
    assert isinstance(first, nn.Conv2d) and first.kernel_size == (1, 1)
    assert (first.in_channels, first.out_channels) == (4, 6)
    assert isinstance(second, nn.Identity)


def test_teacher_takes_the_size_of_the_student():
    student, teacher = torch.rand(2, 3, 4, 6), torch.rand(2, 5, 8, 12)
    assert resize_like(teacher, student).shape == (2, 5, 4, 6)
    # bilinear at half the size, corners not aligned: the mean of 2 x 2
    expected = nn.functional.avg_pool2d(teacher, 2)
    torch.testing.assert_close(resize_like(teacher, student), expected)
    same = torch.rand(2, 9, 4, 6)
    assert resize_like(same, student) is same


def test_anchors_become_maps_of_their_own():
    # as mmdet reads them: (N, A * K, H, W) -> permute -> (N, H * W * A, K)
    scores = torch.rand(2, 3 * 4, 5, 6)
    split = split_anchors(scores, 3)
    assert split.shape == (6, 4, 5, 6)
    flat = scores.permute(0, 2, 3, 1).reshape(2, 5, 6, 3, 4)
    for n in range(2):
        for a in range(3):
            assert torch.equal(
                split[n * 3 + a], flat[n, :, :, a].permute(2, 0, 1))


@pytest.mark.parametrize('is_map', [True, False])
def test_one_column_is_a_map_where_the_host_says_so(is_map):
    """Else it is a row of tokens, which have no place in the image."""
    config = LossConfig('loss_x', dict(type='NFDLoss', source='x'), 'key',
                        ['teacher'])
    student, teacher = torch.rand(2, 4, 8, 1), torch.rand(2, 4, 4, 1)
    places = [Place([], is_map=is_map)]
    if is_map:
        LevelMatcher(config, [student], [teacher], places, places)
    else:
        with pytest.raises(ConfigError, match='tokens whose grid'):
            LevelMatcher(config, [student], [teacher], places, places)
