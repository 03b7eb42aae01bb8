"""Queries are matched by classes and boxes, at the least cost."""
import itertools
import math

import pytest
import torch

from mmselfkd.distillation.query_matching import (
    match_queries,
    matched,
    query_costs,
)
from mmselfkd.hosts.places import split_queries

CLASSES = 3


def level(seed, queries, images=2):
    """Logits and boxes of queries, (N, K + 4, Q, 1)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(
        images, CLASSES, queries, 1, generator=generator)
    boxes = torch.rand(images, 4, queries, 1, generator=generator)
    return torch.cat([logits, 0.1 + 0.8 * boxes], 1)


def probabilities(logits, is_sigmoid):
    if is_sigmoid:
        return [1 / (1 + math.exp(-z)) for z in logits]
    values = [math.exp(z) for z in logits]
    return [v / sum(values) for v in values]


def corners(box):
    cx, cy, w, h = box
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def giou(one, other):
    def area(x1, y1, x2, y2):
        return max(x2 - x1, 0) * max(y2 - y1, 0)

    a, b = corners(one), corners(other)
    common = area(max(a[0], b[0]), max(a[1], b[1]),
                  min(a[2], b[2]), min(a[3], b[3]))
    around = area(min(a[0], b[0]), min(a[1], b[1]),
                  max(a[2], b[2]), max(a[3], b[3]))
    union = area(*a) + area(*b) - common
    return common / union - (around - union) / around


def cost(student, teacher, i, j, is_sigmoid):
    """Of the queries i and j of an image, (K + 4, Q, 1) each."""
    ours, theirs = student[:, i, 0].tolist(), teacher[:, j, 0].tolist()
    p, q = (probabilities(x[:CLASSES], is_sigmoid) for x in (ours, theirs))
    b, d = ours[CLASSES:], theirs[CLASSES:]
    return (sum((x - y)**2 for x, y in zip(p, q))
            + 5 * sum(abs(x - y) for x, y in zip(b, d))
            + 2 * (1 - giou(b, d)))


@pytest.mark.parametrize('is_sigmoid', [True, False])
@pytest.mark.parametrize('ours, theirs', [(4, 4), (3, 5), (5, 3)])
def test_matching_is_the_cheapest_of_all(ours, theirs, is_sigmoid):
    student, teacher = level(1, ours), level(2, theirs)
    sides = matched(student, teacher, is_sigmoid)
    for n, (rows, columns) in enumerate(match_queries(
            student, teacher, is_sigmoid)):
        assert torch.equal(sides[0][n], student[n][:, rows])
        assert torch.equal(sides[1][n], teacher[n][:, columns])

        def total(pairs, n=n):
            return sum(cost(student[n], teacher[n], i, j, is_sigmoid)
                       for i, j in pairs)

        few = min(ours, theirs)
        assert len(rows) == len(set(columns.tolist())) == few
        assert rows.tolist() == sorted(set(rows.tolist()))
        best = min(
            total(zip(some, others))
            for some in itertools.combinations(range(ours), few)
            for others in itertools.permutations(range(theirs), few))
        assert total(zip(rows.tolist(), columns.tolist())) == pytest.approx(
            best, rel=1e-4)


@pytest.mark.parametrize('is_sigmoid', [True, False])
def test_costs_are_the_equation(is_sigmoid):
    student, teacher = level(1, 3), level(2, 4)
    sides = [part[0, :, :, 0].T for x in (student, teacher)
             for part in split_queries(x)]
    found = query_costs(*sides, is_sigmoid)
    assert found.shape == (3, 4)
    for i, j in itertools.product(range(3), range(4)):
        assert found[i, j].item() == pytest.approx(
            cost(student[0], teacher[0], i, j, is_sigmoid), rel=1e-4)


def test_boxes_decide_between_equal_classes_and_classes_between_boxes():
    teacher = level(2, 5)
    for part in (0, 1):
        other = teacher.clone()
        split_queries(other)[1 - part][:] = split_queries(
            other)[1 - part][:, :, :1]  # alike for all queries
        order = torch.tensor([3, 0, 4, 2, 1])
        for _, columns in match_queries(other[:, :, order], other, True):
            assert torch.equal(columns, order)


def test_both_sides_come_in_one_order_with_gradient():
    teacher = level(2, 6)
    order = torch.tensor([5, 1, 3])
    student = (teacher[:, :, order] + 1e-3).requires_grad_()
    ours, theirs = matched(student, teacher, True)
    assert torch.equal(ours, student) and torch.equal(
        theirs, teacher[:, :, order])
    ours, theirs = matched(teacher, student, True)  # more in the student
    assert torch.equal(ours, teacher[:, :, [1, 3, 5]])
    assert torch.equal(theirs, student[:, :, [1, 2, 0]])
    theirs.sum().backward()
    assert student.grad.min() == 1


def test_numbers_that_are_not_finite():
    student, teacher = level(1, 3), level(2, 3)
    student[0, 0, 1], teacher[1, -1, 2] = math.nan, math.inf
    for rows, columns in match_queries(student, teacher, False):
        assert sorted(columns.tolist()) == [0, 1, 2] == rows.tolist()
