import math

import pytest
import torch

from mmselfkd.losses import KDLoss, kd_loss


def maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(shape, generator=generator, dtype=torch.float64)
    return student, 2 * torch.randn(
        shape, generator=generator, dtype=torch.float64)


def naive(student, teacher, valid, temperature):
    """The equation by loops, ``valid`` (N, H, W) at the logits' size."""
    batch, classes, height, width = student.shape
    total, count = 0.0, 0
    for n in range(batch):
        for y in range(height):
            for x in range(width):
                if not valid[n, y, x]:
                    continue
                count += 1
                q = []
                for z in (student[n, :, y, x], teacher[n, :, y, x]):
                    e = [math.exp(v / temperature) for v in z.tolist()]
                    q.append([v / sum(e) for v in e])
                for q_s, q_t in zip(*q):
                    total += temperature**2 * q_t * math.log(q_t / q_s)
    return total / count if count else 0.0


def test_hand_value():
    # q_t = (3/4, 1/4), q_s = (1/2, 1/2): 3/4 ln 3/2 + 1/4 ln 1/2
    teacher = torch.tensor([math.log(3), 0.0]).view(1, 2, 1, 1)
    expected = 0.75 * math.log(1.5) - 0.25 * math.log(2)
    value = kd_loss(torch.zeros(1, 2, 1, 1), teacher)
    torch.testing.assert_close(value, torch.tensor(expected))
    # T = 2 with doubled logits: the same probabilities, times 2**2
    value = kd_loss(torch.zeros(1, 2, 1, 1), 2 * teacher, temperature=2)
    torch.testing.assert_close(value, torch.tensor(4 * expected))


@pytest.mark.parametrize('shape', [(1, 3, 4, 5), (2, 4, 5, 3), (2, 1, 2, 3),
                                   (3, 2, 1, 1)])
@pytest.mark.parametrize('temperature', [1.0, 0.5, 4.0])
def test_equation(shape, temperature):
    student, teacher = maps(*shape)
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(
        3, (shape[0], 2 * shape[2], 2 * shape[3]), generator=generator)
    label[label == 2] = 255
    everywhere = torch.ones(shape[0], *shape[2:])
    valid = label[:, ::2, ::2] != 255
    for seen, mask in ((None, everywhere), (label, valid)):
        options = dict(label=seen, temperature=temperature)
        expected = naive(student, teacher, mask, temperature)
        value = kd_loss(student, teacher, **options)
        assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
        single = kd_loss(student.float(), teacher.float(), **options)
        assert single.item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_teacher_leads():
    # KL(q_t || q_s), not KL(q_s || q_t)
    student, teacher = maps(1, 4, 3, 5)
    assert kd_loss(student, teacher) != pytest.approx(
        kd_loss(teacher, student).item(), rel=1e-3)


def test_shift_of_all_classes_has_no_effect():
    student, teacher = maps(2, 4, 3, 5)
    shift, _ = maps(2, 1, 3, 5, seed=1)
    torch.testing.assert_close(
        kd_loss(student + shift, teacher - 2 * shift),
        kd_loss(student, teacher))


def test_enlarged_map_has_the_same_value():
    student, teacher = maps(2, 4, 3, 5)
    label = torch.arange(30).view(2, 3, 5) % 4
    label[label == 3] = 255
    big = [m.repeat_interleave(2, 2).repeat_interleave(3, 3)
           for m in (student, teacher)]
    torch.testing.assert_close(
        kd_loss(*big, label=label), kd_loss(student, teacher, label=label))


def test_ignored_pixels_take_no_part():
    student, teacher = maps(2, 4, 3, 5)
    label = torch.zeros(2, 3, 5).long()
    label[0, 1] = 255
    label[1, :, 2] = 255
    ignored = (label == 255)[:, None].expand_as(student)
    changed = student.masked_fill(ignored, 100.0)
    student.requires_grad_()
    value = kd_loss(student, teacher, label=label)
    value.backward()
    torch.testing.assert_close(kd_loss(changed, teacher, label=label), value)
    assert (student.grad[ignored] == 0).all()
    assert (student.grad[~ignored] != 0).all()


def test_every_pixel_without_ignore_index():
    student, teacher = maps(2, 4, 3, 5)
    label = torch.full((2, 6, 10), 255)
    assert torch.equal(
        kd_loss(student, teacher, label=label, ignore_index=None),
        kd_loss(student, teacher))


def test_another_ignore_index():
    student, teacher = maps(1, 4, 1, 2)
    label = torch.tensor([[[-1, 255]]])
    torch.testing.assert_close(
        kd_loss(student, teacher, label=label, ignore_index=-1),
        kd_loss(student[..., 1:], teacher[..., 1:]))


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
def test_all_ignored_is_exactly_zero(dtype):
    student, teacher = (m.to(dtype) for m in maps(2, 4, 3, 5))
    student.requires_grad_()
    value = kd_loss(student, teacher, label=torch.full((2, 3, 5), 255))
    value.backward()
    assert value.item() == 0
    assert (student.grad == 0).all()


def test_label_of_another_batch():
    logits = torch.zeros(2, 4, 3, 5)
    with pytest.raises(ValueError, match=r'\(1, 3, 5\).*\(2, 4, 3, 5\)'):
        KDLoss()(logits, logits, label=torch.zeros(1, 3, 5).long())


@pytest.mark.parametrize('temperature',
                         [0, -1.0, float('inf'), float('nan'), '1', None])
def test_bad_temperature(temperature):
    logits = torch.zeros(1, 2, 1, 1)
    for call in (lambda: KDLoss(temperature),
                 lambda: kd_loss(logits, logits, temperature=temperature)):
        with pytest.raises(ValueError) as error:
            call()
        assert 'temperature must be a finite number above 0' in str(
            error.value)
        assert repr(temperature) in str(error.value)


@pytest.mark.parametrize('ignore_index', [2.5, '255', True, 'heads'])
def test_bad_ignore_index(ignore_index):
    with pytest.raises(ValueError, match="must be 'head', None or an"):
        KDLoss(ignore_index=ignore_index)


def naive_sides(student, teacher, valid, groups, temperature):
    """Each side of each valid pixel by itself."""
    bins = student.shape[1] // groups
    sides = [kd_loss(
        *(m[:, g * bins:(g + 1) * bins] for m in (student, teacher)),
        label=valid, ignore_index=0, temperature=temperature)
        for g in range(groups)]
    return sum(sides) / groups


@pytest.mark.parametrize('groups', [1, 2, 4])
@pytest.mark.parametrize('temperature', [1.0, 10.0])
def test_groups_are_distributions_side_by_side(groups, temperature):
    student, teacher = maps(2, 12, 3, 5)
    label = torch.randint(2, (2, 3, 5))
    expected = naive_sides(student, teacher, label, groups, temperature)
    loss = KDLoss(temperature, ignore_index=0, groups=groups)
    torch.testing.assert_close(loss(student, teacher, label=label), expected)
    weight = torch.rand(2, 1, 3, 5)
    plain = KDLoss(temperature, ignore_index=None)
    bins = 12 // groups
    sides = [plain(*(m[:, g * bins:(g + 1) * bins]
                     for m in (student, teacher)), weight=weight)
             for g in range(groups)]
    torch.testing.assert_close(
        loss(student, teacher, weight=weight), sum(sides) / groups)


def test_a_constant_on_one_side_changes_nothing():
    student, teacher = maps(2, 12, 3, 5)
    shifted = student.clone()
    shifted[:, 3:6] += 7.0
    for groups, is_same in ((4, True), (1, False)):
        loss = KDLoss(groups=groups)
        assert torch.allclose(
            loss(shifted, teacher), loss(student, teacher)) is is_same


def test_each_group_has_temperatures_of_its_own():
    student, teacher = maps(2, 6, 3, 5)
    dynamic = dict(type='FLSW', mean='image')
    loss = KDLoss(2.0, dynamic_temperature=dynamic, groups=2)
    plain = KDLoss(2.0, dynamic_temperature=dynamic)
    sides = [plain(student[:, part], teacher[:, part])
             for part in (slice(3), slice(3, 6))]
    torch.testing.assert_close(loss(student, teacher), sum(sides) / 2)


def test_groups_that_the_run_sets():
    student, teacher = maps(2, 12, 3, 5)
    loss = KDLoss()
    assert loss.groups is None
    loss.groups = 4
    assert torch.equal(
        loss(student, teacher), KDLoss(groups=4)(student, teacher))


@pytest.mark.parametrize('options, parts', [
    (dict(groups=5), ['groups must divide the 12 channels', 'got 5']),
    (dict(groups=2, activation='sigmoid'), ['groups must be 1', "'sigmoid'"]),
    (dict(groups=2, adjust=dict(type='ProbabilityShift')),
     ['adjust must be None', 'ProbabilityShift']),
])
def test_groups_that_cannot_be(options, parts):
    student, teacher = maps(1, 12, 2, 2)
    for call in (lambda: kd_loss(student, teacher, **options),
                 lambda: KDLoss(**options)(student, teacher)):
        with pytest.raises(ValueError) as error:
            call()
        assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize('groups', [0, -1, 2.0, True])
def test_bad_groups(groups):
    with pytest.raises(ValueError, match='groups must be None or an integer'):
        KDLoss(groups=groups)


def standardised(row):
    """By the unbiased deviation, as the official code has it."""
    mean = sum(row) / len(row)
    deviation = math.sqrt(
        sum((v - mean)**2 for v in row) / (len(row) - 1))
    return [(v - mean) / (deviation + 1e-7) for v in row]


def softmax(row, temperature):
    e = [math.exp(v / temperature) for v in row]
    return [v / sum(e) for v in e]


@pytest.mark.parametrize('temperature', [1.0, 2.0])
def test_standardised_logits_by_loops(temperature):
    student, teacher = maps(2, 4, 3, 5)
    total = 0.0
    rows = [x.movedim(1, 3).flatten(0, 2).tolist() for x in (student, teacher)]
    for s, t in zip(*rows):
        q, p = (softmax(standardised(row), temperature) for row in (s, t))
        total += sum(a * math.log(a / b) for a, b in zip(p, q))
    value = kd_loss(
        student, teacher, temperature=temperature, standardise=True)
    assert value.item() == pytest.approx(
        temperature**2 * total / len(rows[0]), rel=1e-6)
    assert value != kd_loss(student, teacher, temperature=temperature)
    torch.testing.assert_close(
        KDLoss(temperature, standardise=True)(student, teacher), value)


def test_standardised_logits_have_no_mean_and_no_scale():
    student, teacher = maps(2, 4, 3, 5)
    expected = kd_loss(student, teacher, standardise=True)
    shift = torch.arange(15).view(1, 1, 3, 5)
    torch.testing.assert_close(
        kd_loss(3 * student + shift, 0.2 * teacher - shift,
                standardise=True), expected)
    torch.testing.assert_close(  # across, not along the width
        kd_loss(student.mT, teacher.mT, standardise=True), expected)
    student.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: kd_loss(s, teacher.double(), standardise=True),
        student.detach().double().requires_grad_())


def test_logits_that_are_all_the_same_are_not_blown_up():
    student, teacher = maps(2, 4, 3, 5)
    student = torch.zeros_like(student).requires_grad_()
    value = kd_loss(student, teacher, standardise=True)
    value.backward()
    assert value.isfinite() and student.grad.abs().max() < 1


def test_groups_are_standardised_on_their_own():
    student, teacher = maps(2, 8, 3, 5)
    halves = [kd_loss(student[:, g:g + 4], teacher[:, g:g + 4],
                      standardise=True) for g in (0, 4)]
    torch.testing.assert_close(
        kd_loss(student, teacher, groups=2, standardise=True),
        sum(halves) / 2)


@pytest.mark.parametrize('options, part', [
    (dict(standardise=1), 'standardise must be'),
    (dict(standardise=True, activation='sigmoid'), "activation='sigmoid'")])
def test_bad_standardise(options, part):
    student, teacher = maps(1, 4, 3, 5)
    for call in (lambda: kd_loss(student, teacher, **options),
                 lambda: KDLoss(**options)):
        with pytest.raises(ValueError, match=part):
            call()


@pytest.mark.parametrize('options, shape, says', [
    (dict(), (1, 1, 4, 4), 'a softmax over one channel'),
    (dict(), (1, 2, 4, 4), None),
    (dict(activation='sigmoid'), (1, 1, 4, 4), None),
    (dict(groups=2), (1, 2, 4, 4), 'a softmax over one channel'),
    (dict(groups=2), (1, 4, 4, 4), None),
    (dict(standardise=True), (1, 2, 3, 4), 'the logits of two classes'),
    (dict(standardise=True), (1, 3, 2, 2), None),
    (dict(standardise=True, groups=2), (1, 4, 3, 3), 'of two classes'),
    (dict(standardise=True, groups=2), (1, 6, 4, 4), None)])
def test_what_would_be_constant_is_refused(options, shape, says):
    """By the number of the classes of one distribution, no other side."""
    scores = torch.rand(shape)
    loss = KDLoss(ignore_index=None, **options)
    if says is None:
        loss.check(scores, scores)
    else:
        with pytest.raises(ValueError, match=says):
            loss.check(scores, scores)


def test_groups_are_named_in_the_error():
    scores = torch.rand(1, 4, 2, 2)
    with pytest.raises(ValueError, match='^groups must be'):
        kd_loss(scores, scores, groups=0)
