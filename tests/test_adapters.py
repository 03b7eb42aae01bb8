"""Adapters of channels and sizes."""
import torch
from torch import nn

from mmselfkd.adapters import build_adapters, resize_like


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
