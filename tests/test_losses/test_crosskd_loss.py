import math

import pytest
import torch
from torch import nn

from mmselfkd.losses import CrossKDLoss, crosskd_loss

ANCHORS, CLASSES, BINS, CHANNELS = 2, 3, 4, 5
SIZES = (3, 4), (2, 2)
POSITIVES = 7.


class Head(nn.Module):
    """A convolution of 3 x 3 in each branch; corners in front of corners."""

    def __init__(self, bins=None):
        super().__init__()
        torch.manual_seed(0)
        self.bins, self.calls = bins, []
        self.classes = nn.Conv2d(CHANNELS, ANCHORS * CLASSES, 3, padding=1)
        self.boxes = nn.Conv2d(
            CHANNELS, ANCHORS * 4 * (bins or 1), 3, padding=1)
        self.double().requires_grad_(False)

    def forward(self, maps):
        self.calls.append([m.detach().clone() for m in maps])
        found = []
        for one, other in zip(maps[::2], maps[1::2]):
            scores = self.classes(one).unflatten(1, (ANCHORS, CLASSES))
            boxes = self.boxes(other).unflatten(1, (ANCHORS, -1))
            if self.bins is None:
                first, rest = boxes.chunk(2, 2)
                boxes = torch.cat([first, first + 0.1 + rest.exp()], 2)
            found.append((scores, boxes))
        return found


def maps(seed, batch=2):
    generator = torch.Generator().manual_seed(seed)
    return [1 + 3 * torch.randn(
        batch, CHANNELS, *size, generator=generator, dtype=torch.float64)
        for size in SIZES for _ in range(2)]


def weights():
    """The last column of the second image is padding; some count more."""
    found = []
    for height, width in SIZES:
        weight = torch.ones(2, 1, height, width, dtype=torch.float64)
        weight[0, :, 0] = 3
        weight[1, :, :, -1] = 0
        found += [weight, weight]
    return found


def aligned(student, teacher, weight):
    """Channel by channel, over the valid positions of the batch."""
    result = torch.zeros_like(student)
    valid = [(n, y, x) for n in range(2) for y in range(student.shape[2])
             for x in range(student.shape[3]) if weight[n, 0, y, x] > 0]
    for c in range(student.shape[1]):
        stats = []
        for side in (student, teacher):
            values = [side[n, c, y, x].item() for n, y, x in valid]
            mean = sum(values) / len(values)
            stats.append((mean, math.sqrt(sum(
                (v - mean)**2 for v in values) / len(values))))
        (m_s, d_s), (m_t, d_t) = stats
        for n, y, x in valid:
            result[n, c, y, x] = (
                student[n, c, y, x].item() - m_s) / (d_s + 1e-6) * d_t + m_t
    return result


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def softmax(values):
    values = [math.exp(value) for value in values]
    return [value / sum(values) for value in values]


def giou(a, b):
    def area(x1, y1, x2, y2):
        return max(x2 - x1, 0) * max(y2 - y1, 0)

    low, high = map(max, zip(a, b)), map(min, zip(a, b))
    low, high = list(low), list(high)
    common = area(low[0], low[1], high[2], high[3])
    around = area(high[0], high[1], low[2], low[3])
    union = area(*a) + area(*b) - common
    return common / union - (around - union) / around


def by_loops(student, teacher, head, weight, beta, box_weight):
    cut = [t * (w > 0) for t, w in zip(teacher, weight)]
    ours = head([aligned(*each) for each in zip(student, teacher, weight)])
    theirs = head(cut)
    class_sum = box_sum = sure_sum = 0.
    for (z, b), (z_t, b_t), w in zip(ours, theirs, weight[::2]):
        for n in range(2):
            valid = [v for v in w[n].flatten().tolist() if v > 0]
            scale = len(valid) / sum(valid)  # to a mean of 1
            for a in range(ANCHORS):
                for y in range(z.shape[3]):
                    for x in range(z.shape[4]):
                        share = w[n, 0, y, x].item() * scale
                        scores = z_t[n, a, :, y, x].tolist()
                        for k, target in enumerate(scores):
                            q, p = sigmoid(z[n, a, k, y, x].item()), sigmoid(
                                target)
                            class_sum += share * abs(q - p)**beta * -(
                                p * math.log(q) + (1 - p) * math.log(1 - q))
                        sure = sigmoid(max(scores))
                        one, other = (v[n, a, :, y, x].tolist()
                                      for v in (b, b_t))
                        if head.bins is None:
                            differs = 1 - giou(one, other)
                        else:
                            differs = sum(
                                t * math.log(t / s) for side in range(4)
                                for s, t in zip(*(softmax(v[
                                    side * BINS:(side + 1) * BINS]) for v in (
                                        one, other)))) / 4
                        box_sum += share * sure * differs
                        sure_sum += share * sure
    return class_sum / POSITIVES + box_weight * box_sum / (
        POSITIVES if head.bins is None else sure_sum)


@pytest.mark.parametrize('bins, box_weight', [
    (None, None), (BINS, None), (None, 0.3), (BINS, 0.3)])
@pytest.mark.parametrize('is_weighted, beta', [(True, 1.0), (False, 1.7)])
def test_equation(bins, box_weight, is_weighted, beta):
    student, teacher, head = maps(1), maps(2), Head(bins)
    weight = weights() if is_weighted else [
        torch.ones_like(w) for w in weights()]
    value = crosskd_loss(
        student, teacher, head=head, positives=POSITIVES, beta=beta,
        weight=weight if is_weighted else None, box_weight=box_weight)
    expected = by_loops(student, teacher, head, weight, beta, {
        None: 1. if bins is None else 4.}.get(box_weight, box_weight))
    assert value.item() == pytest.approx(expected, rel=1e-9)


def test_features_of_another_scale_are_the_same():
    teacher, head = maps(2), Head(BINS)
    student = [scale * t + 3 for t, scale in zip(teacher, (2, 0.1, 5, 1))]
    value = crosskd_loss(student, teacher, head=head, positives=POSITIVES)
    least = crosskd_loss(teacher, teacher, head=head, positives=POSITIVES)
    assert value.item() == pytest.approx(least.item(), abs=1e-4)
    assert crosskd_loss(
        maps(1), teacher, head=head, positives=POSITIVES) > 10 * least + 0.1


@pytest.mark.parametrize('bins', [None, BINS])
def test_gradient_passes_the_frozen_head_to_the_student_alone(bins):
    student, teacher, head = maps(1), maps(2), Head(bins)
    for each in [*student, *teacher]:
        each.requires_grad_()
    assert torch.autograd.gradcheck(lambda *s: crosskd_loss(
        s, teacher, head=head, positives=POSITIVES, weight=weights()),
        student, fast_mode=True)
    crosskd_loss(student, teacher, head=head, positives=POSITIVES,
                 weight=weights()).backward()
    for s, t, w in zip(student, teacher, weights()):
        assert t.grad is None
        outside = (w == 0).expand_as(s)
        assert s.grad[outside].abs().max() == 0
        assert s.grad[~outside].abs().max() > 0
    assert all(p.grad is None for p in head.parameters())


def test_what_weighs_nothing_takes_no_part():
    student, teacher, head = maps(1), maps(2), Head()
    options = dict(head=head, positives=POSITIVES, weight=weights())
    value = crosskd_loss(student, teacher, **options)
    student, teacher = (
        [x.masked_fill(w == 0, bad) for x, w in zip(side, weights())]
        for side, bad in ((student, 1e9), (teacher, math.nan)))
    torch.testing.assert_close(
        crosskd_loss(student, teacher, **options), value)


def test_an_image_more_with_as_many_positives_more_changes_little():
    student, teacher, head = maps(1), maps(2), Head(BINS)
    twice = [[torch.cat([x, x]) for x in side] for side in (student, teacher)]
    torch.testing.assert_close(
        crosskd_loss(*twice, head=head, positives=2 * POSITIVES),
        crosskd_loss(student, teacher, head=head, positives=POSITIVES))


def test_a_constant_channel_is_finite():
    student, teacher, head = maps(1), maps(2), Head()
    student[0][:, 1] = 2
    for each in student:
        each.requires_grad_()
    crosskd_loss(student, teacher, head=head, positives=POSITIVES).backward()
    assert student[0].grad[:, 1].abs().max() == 0
    assert all(each.grad.isfinite().all() for each in student)
    mean = teacher[0][:, 1].mean()
    torch.testing.assert_close(  # the first call is the teacher's
        head.calls[1][0][:, 1], mean.expand(2, *SIZES[0]))


def test_no_positive_and_sure_of_nothing():
    student, teacher = maps(1), maps(2)
    head = Head(BINS)
    head.classes.bias.fill_(-2000.)
    value = crosskd_loss(student, teacher, head=head, positives=1.)
    assert value.isfinite() and value < 1e-3


def test_half_precision_is_computed_in_float32():
    student, teacher = ([x.half() for x in maps(i)] for i in (1, 2))
    head = Head(BINS).float()
    expected = crosskd_loss(
        [x.float() for x in student], [x.float() for x in teacher],
        head=head, positives=POSITIVES)
    with torch.autocast('cpu', torch.bfloat16):
        value = crosskd_loss(
            student, teacher, head=head, positives=POSITIVES)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)


def test_module_is_the_function():
    student, teacher, head = maps(1), maps(2), Head()
    options = dict(head=head, positives=torch.tensor(POSITIVES),
                   weight=weights())
    torch.testing.assert_close(
        CrossKDLoss(beta=1.5, box_weight=2)(student, teacher, **options),
        crosskd_loss(student, teacher, beta=1.5, box_weight=2, **options))


def test_shapes_and_arguments_are_refused():
    student, teacher = maps(1), maps(2)
    options = dict(head=Head(), positives=1)
    with pytest.raises(ValueError, match='3 maps of the student and 3'):
        crosskd_loss(student[:3], teacher[:3], **options)
    with pytest.raises(ValueError, match='4 maps of the student and 2'):
        crosskd_loss(student, teacher[:2], **options)
    with pytest.raises(ValueError, match=r'same shape.*\(2, 5, 3, 4\)'):
        crosskd_loss(student, [teacher[0][:, :4], *teacher[1:]], **options)
    with pytest.raises(ValueError, match='weight must have shape'):
        crosskd_loss(student, teacher, **options,
                     weight=[w[:1] for w in weights()])
    for name, value, says in (
            ('beta', -1, '0 or .* from 1'), ('beta', 0.5, '0 or .* from 1'),
            ('beta', math.nan, 'nan'), ('beta', True, 'True'),
            ('box_weight', math.nan, 'nan')):
        with pytest.raises(ValueError, match=f'{name} .*{says}'):
            CrossKDLoss(**{name: value})


TWO_PROCESSES = """
import sys
import torch
from torch import distributed
from mmselfkd.losses import CrossKDLoss

rank, store = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group(
    'gloo', init_method='file://' + store, rank=rank, world_size=2)
generator = torch.Generator().manual_seed(0)
student, teacher = (
    [torch.randn(4, 8, *size, generator=generator, dtype=torch.float64)
     for size in ((3, 4), (2, 2)) for _ in range(2)] for _ in range(2))
weight = [torch.rand(4, 1, *s.shape[2:], generator=generator).gt(
    0.3).double() for s in student]


def head(maps):
    return [(c[:, None, :3], b[:, None]) for c, b in zip(
        maps[::2], maps[1::2])]


def call(rows, positives, sync_ranks):
    loss = CrossKDLoss()
    loss.sync_ranks = sync_ranks
    leaves = [s.clone().requires_grad_() for s in student]
    value = loss([x[rows] for x in leaves], [x[rows] for x in teacher],
                 head=head, positives=positives,
                 weight=[w[rows] for w in weight])
    value.backward()
    return value.detach(), [x.grad[rows] for x in leaves]


mine = slice(2 * rank, 2 * rank + 2)
expected, slopes = call(slice(4), 10., False)
value, halves = call(mine, 5., True)  # the host has the mean of the ranks
distributed.all_reduce(value)
torch.testing.assert_close(value / 2, expected)
for half, slope in zip(halves, slopes):
    torch.testing.assert_close(half / 2, slope[mine])  # DDP takes the mean
distributed.destroy_process_group()
"""


def test_two_ranks_are_one_of_twice_the_batch(two_processes):
    two_processes(TWO_PROCESSES)
