"""Adapters of channels and sizes, anchors."""
import torch
from torch import nn

from mmselfkd.distillation.level_matching import (
    build_adapters,
    resize_like,
    split_anchors,
)


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
