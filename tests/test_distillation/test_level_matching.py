"""Adapters of channels and sizes, anchors and queries."""
import itertools

import pytest
import torch
from torch import nn

from mmselfkd.distillation.level_matching import (
    build_adapters,
    match_queries,
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


@pytest.mark.parametrize('is_sigmoid', [True, False])
def test_queries_are_matched(is_sigmoid):
    teacher = 3 * torch.randn(2, 4, 7, 1)
    order = torch.stack([torch.randperm(7) for _ in range(2)])
    student = torch.stack([t[:, o] for t, o in zip(teacher, order)])
    student = student + 0.01 * torch.randn(student.shape)
    matched = match_queries(student, teacher, is_sigmoid)
    torch.testing.assert_close(matched, student, atol=0.1, rtol=0)
    # fewer queries than the teacher has: the best of them
    few = match_queries(student[:, :, :3], teacher, is_sigmoid)
    torch.testing.assert_close(few, student[:, :, :3], atol=0.1, rtol=0)


def test_matching_is_the_cheapest_assignment():
    student, teacher = torch.randn(1, 3, 4, 1), torch.randn(1, 3, 4, 1)
    matched = match_queries(student, teacher, True)

    def cost(other):
        return (student.sigmoid() - other.sigmoid()).square().sum()

    best = min(cost(teacher[:, :, list(order)])
               for order in itertools.permutations(range(4)))
    torch.testing.assert_close(cost(matched), best)
