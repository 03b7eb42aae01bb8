import copy
import functools
import math
import pickle

import pytest
import torch

from mmselfkd.losses import KDLoss, kd_loss
from mmselfkd.losses.ka_dtd import (
    ADJUSTMENTS as KINDS,
)
from mmselfkd.losses.ka_dtd import (
    CWSM,
    FLSW,
    LabelSmoothing,
    ProbabilityShift,
    build_option,
)

SHIFT = dict(type='ProbabilityShift')
SMOOTH = dict(type='LabelSmoothing')
ADJUSTMENTS = [None, SHIFT, dict(SMOOTH, correct=0.8),
               dict(SMOOTH, correct=1.0)]
DYNAMICS = [
    None,
    dict(type='FLSW'),
    dict(type='FLSW', beta=5, gamma=0.5, minimum=0.25, mean='image'),
    dict(type='CWSM', beta=2.0),
    dict(type='CWSM', beta=0.5, minimum=0.5, mean='image'),
]
every_option = pytest.mark.parametrize(
    'adjust, dynamic',
    [(adjust, None) for adjust in ADJUSTMENTS[1:]]
    + [(None, dynamic) for dynamic in DYNAMICS[1:]]
    + [(SHIFT, DYNAMICS[2]), (ADJUSTMENTS[3], DYNAMICS[3])])


def maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(shape, generator=generator, dtype=torch.float64)
    return student, 2 * torch.randn(
        shape, generator=generator, dtype=torch.float64)


def labels(*shape, classes=3, seed=1):
    """A fifth of the pixels is 255, another fifth is no class."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(classes, shape, generator=generator)
    kind = torch.randint(5, shape, generator=generator)
    return label.masked_fill(kind == 3, 255).masked_fill(kind == 4, classes)


def naive_weight(s, t, dynamic):
    """How hard one pixel is; ``s`` and ``t`` are lists of logits."""
    if dynamic['type'] == 'CWSM':
        e = [math.exp(v) for v in s]
        return 1 / (max(e) / sum(e) + 1e-3)
    length = [math.sqrt(sum(v * v for v in z)) + 1e-4 for z in (s, t)]
    cosine = sum(a * b for a, b in zip(s, t)) / length[0] / length[1]
    return max(1 - cosine, 0)**dynamic.get('gamma', 1)


def naive(student, teacher, label, valid, temperature, adjust, dynamic):
    """The equation by loops; label and valid are lists [n][y][x]."""
    batch, classes, height, width = student.shape
    where = [(n, y, x) for n in range(batch) for y in range(height)
             for x in range(width) if valid[n][y][x]]
    rows = {p: (student[p[0], :, p[1], p[2]].tolist(),
                teacher[p[0], :, p[1], p[2]].tolist()) for p in where}
    total = 0.0
    for p in where:
        s, t = rows[p]
        tau = temperature
        if dynamic:
            others = [naive_weight(*rows[o], dynamic) for o in where
                      if o[0] == p[0] or dynamic.get('mean') != 'image']
            tau += (sum(others) / len(others) - naive_weight(s, t, dynamic)
                    ) * dynamic.get('beta', 1)
            tau = max(tau, dynamic.get('minimum', 1))
        q_s, q_t = ([math.exp(v / tau) for v in z] for z in (s, t))
        q_s = [v / sum(q_s) for v in q_s]
        q_t = [v / sum(q_t) for v in q_t]
        y = label[p[0]][p[1]][p[2]]
        if adjust and 0 <= y < classes and max(q_t) > q_t[y]:
            c = q_t.index(max(q_t))
            if adjust['type'] == 'ProbabilityShift':
                q_t[c], q_t[y] = q_t[y], q_t[c]
            else:
                correct = adjust.get('correct', 0.9)
                q_t = [correct if k == y else (1 - correct) / (classes - 1)
                       for k in range(classes)]
        total += tau**2 * sum(
            a * math.log(a / b) for a, b in zip(q_t, q_s) if a > 0)
    return total / len(where) if where else 0.0


def test_hand_value_of_the_shift():
    # q_t = (3/4, 1/4) becomes (1/4, 3/4) for label 1; q_s = (4/5, 1/5)
    teacher = torch.tensor([math.log(3), 0.0]).view(1, 2, 1, 1)
    student = torch.tensor([math.log(4), 0.0]).view(1, 2, 1, 1)
    shifted = 0.25 * math.log(0.25 / 0.8) + 0.75 * math.log(0.75 / 0.2)
    kept = 0.75 * math.log(0.75 / 0.8) + 0.25 * math.log(0.25 / 0.2)
    for label, expected in ((1, shifted), (0, kept), (2, kept), (-1, kept)):
        value = kd_loss(student, teacher, label=torch.tensor([[[label]]]),
                        adjust=SHIFT)
        torch.testing.assert_close(value, torch.tensor(expected))


def test_hand_value_of_label_smoothing():
    teacher = torch.tensor([math.log(2), 0.0, 0.0]).view(1, 3, 1, 1)
    student = torch.zeros(1, 3, 1, 1)
    label = torch.tensor([[[2]]])
    for correct in (0.9, 0.5, 1.0):
        rest = (1 - correct) / 2
        expected = correct * math.log(3 * correct)
        if rest:
            expected += 2 * rest * math.log(3 * rest)
        value = kd_loss(student, teacher, label=label,
                        adjust=dict(SMOOTH, correct=correct))
        torch.testing.assert_close(value, torch.tensor(expected))


def test_hand_values_of_the_temperatures():
    # the cosines are 1, 0 and -1; the fourth pixel is not valid
    student = torch.tensor([[3., 4.], [3., 4.], [3., 4.], [1., 2.]])
    teacher = torch.tensor([[6., 8.], [-4., 3.], [-3., -4.], [7., 1.]])
    student, teacher = (
        m.double().t().reshape(1, 2, 1, 4) for m in (student, teacher))
    valid = torch.tensor([[[True, True, True, False]]])
    for options, expected in (
            (dict(), [3., 2., 1.]),
            (dict(beta=0.5), [2.5, 2., 1.5]),
            (dict(beta=2.0), [4., 2., 1.]),
            (dict(beta=2.0, minimum=0.25), [4., 2., 0.25]),
            # weights 0, 1, 4 of mean 5/3
            (dict(gamma=2), [2 + 5 / 3, 2 + 2 / 3, 1.])):
        tau = FLSW(**options)(student, teacher, 2.0, valid)
        assert tau.shape == (1, 1, 1, 4)
        torch.testing.assert_close(
            tau.flatten()[:3], torch.tensor(expected).double(), atol=2e-4,
            rtol=0)
    # max p is 1/2, 3/4 and 1: weights 1.996008, 1.331558, 0.999001
    student = torch.tensor([[0., 0.], [math.log(3), 0.], [0., 99.], [0., 0.]])
    student = student.double().t().reshape(1, 2, 1, 4)
    tau = CWSM()(student, student, 2.0, valid)
    torch.testing.assert_close(
        tau.flatten()[:3],
        torch.tensor([1.446181, 2.110631, 2.443188]).double(), atol=1e-6,
        rtol=0)


@pytest.mark.parametrize('adjust', ADJUSTMENTS)
@pytest.mark.parametrize('dynamic', DYNAMICS)
@pytest.mark.parametrize('shape', [(1, 3, 3, 4), (2, 3, 4, 2), (3, 3, 1, 1)])
def test_equation(shape, adjust, dynamic):
    student, teacher = maps(*shape)
    temperature = 2.0
    label = labels(shape[0], 2 * shape[2], 2 * shape[3])
    small = label[:, ::2, ::2]
    everywhere = torch.ones_like(small).bool()
    nothing = torch.full_like(small, -1)
    options = dict(adjust=adjust, dynamic_temperature=dynamic)
    for arguments, classes, valid in (
            (dict(label=label), small, small != 255),
            (dict(label=label, ignore_index=None), small, everywhere),
            (dict(label=label, ignore_index=0), small, small != 0),
            (dict(), nothing, everywhere)):
        arguments['temperature'] = temperature
        expected = naive(student, teacher, classes.tolist(), valid.tolist(),
                         temperature, adjust, dynamic)
        value = kd_loss(student, teacher, **arguments, **options)
        assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
        value = kd_loss(student.float(), teacher.float(), **arguments,
                        **options)
        assert value.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_shift_keeps_sum_and_entropy():
    _, teacher = maps(2, 5, 4, 6)
    q = teacher.softmax(dim=1)
    label = labels(2, 4, 6, classes=5)
    shift = ProbabilityShift()
    shifted = shift(q, label)
    assert not torch.equal(shifted, q)
    torch.testing.assert_close(shifted.sum(1), q.sum(1))
    torch.testing.assert_close(
        (shifted * shifted.log()).sum(1), (q * q.log()).sum(1))
    assert torch.equal(shifted.sort(1).values, q.sort(1).values)
    # logits, probabilities and their logarithms: one and the same swap
    torch.testing.assert_close(
        shift(teacher, label).softmax(dim=1), shifted)
    torch.testing.assert_close(shift(q.log(), label).exp(), shifted)


def test_label_is_first_after_both_adjustments():
    _, teacher = maps(2, 5, 4, 6)
    label = labels(2, 4, 6, classes=5)
    known = label < 5
    log_q = teacher.log_softmax(dim=1)
    assert (log_q.argmax(1) != label)[known].any()
    for adjust in (ProbabilityShift(), LabelSmoothing()):
        changed = adjust(log_q, label)
        assert torch.equal(changed.argmax(1)[known], label[known])
        torch.testing.assert_close(
            changed.exp().sum(1), torch.ones(2, 4, 6).double())


@pytest.mark.parametrize('adjust', [ProbabilityShift(), LabelSmoothing()])
def test_rows_that_stay(adjust):
    _, teacher = maps(2, 5, 4, 6)
    log_q = teacher.log_softmax(dim=1)
    right = log_q.argmax(dim=1)
    assert torch.equal(adjust(log_q, right), log_q)
    for nothing in (255, 5, -1, -5):
        label = right.clone()
        label[:, 1:3] = nothing
        assert torch.equal(adjust(log_q, label), log_q)
    # a tie for the first place is right, whichever comes first
    tie = torch.tensor([0.4, 0.4, 0.2]).log().view(1, 3, 1, 1)
    for label in (0, 1):
        assert torch.equal(adjust(tie, torch.tensor([[[label]]])), tie)
    assert not torch.equal(adjust(tie, torch.tensor([[[2]]])), tie)


@pytest.mark.parametrize('adjust', ADJUSTMENTS[1:])
def test_adjustment_that_has_nothing_to_do(adjust):
    student, teacher = maps(2, 4, 3, 5)
    right = teacher.argmax(dim=1)
    expected = kd_loss(student, teacher)
    assert torch.equal(
        kd_loss(student, teacher, label=right, adjust=adjust), expected)
    assert torch.equal(kd_loss(student, teacher, adjust=adjust), expected)
    # no ignore_index: an unlabelled pixel distils and is not adjusted
    right[:, 1] = 255
    assert torch.equal(
        kd_loss(student, teacher, label=right, ignore_index=None,
                adjust=adjust), expected)
    wrong = (right + 1) % 4
    assert kd_loss(student, teacher, label=wrong, adjust=adjust) != expected


@pytest.mark.parametrize('dynamic', DYNAMICS[1:])
@pytest.mark.parametrize('temperature', [1.0, 3.0])
def test_beta_of_zero_is_static(dynamic, temperature):
    student, teacher = maps(2, 4, 3, 5)
    label = labels(2, 3, 5, classes=4)
    for seen in (None, label):
        torch.testing.assert_close(
            kd_loss(student, teacher, label=seen, temperature=temperature,
                    dynamic_temperature=dict(dynamic, beta=0)),
            kd_loss(student, teacher, label=seen, temperature=temperature))


def test_gamma_of_zero_is_static():
    student, teacher = maps(2, 4, 3, 5)
    teacher[0] = student[0]  # 0**0
    tau = FLSW(gamma=0)(student, teacher, 3.0)
    torch.testing.assert_close(tau, torch.full_like(tau, 3.0))


def test_weights_do_not_depend_on_the_scale():
    student, teacher = maps(1, 4, 3, 5)
    torch.testing.assert_close(
        FLSW()(student, teacher, 4.0),
        FLSW()(50 * student, 20 * teacher, 4.0), atol=1e-3, rtol=0)


def test_harder_pixels_are_sharper():
    # five pixels whose student turns from the teacher to its opposite
    angle = torch.linspace(0, math.pi, 5).double()
    student = torch.stack([angle.cos(), angle.sin()]).view(1, 2, 1, 5)
    teacher = torch.tensor([1., 0.]).double().view(1, 2, 1, 1)
    tau = FLSW(beta=2)(student, teacher.expand_as(student), 4.0)
    assert (tau.flatten().diff() < -0.1).all()
    # five pixels ever less sure
    student = torch.zeros(1, 2, 1, 5)
    student[0, 0, 0] = torch.tensor([9., 2., 1., 0.5, 0.])
    tau = CWSM(beta=2)(student, student, 4.0)
    assert (tau.flatten().diff() < -0.1).all()


def test_mean_temperature_is_the_temperature():
    student, teacher = maps(2, 4, 3, 5)
    teacher[1] = student[1] + 0.1  # an easy image
    valid = labels(2, 3, 5) != 255
    for mean, axes in (('batch', (0, 1, 2)), ('image', (1, 2))):
        for dynamic in (FLSW(mean=mean), CWSM(mean=mean)):
            tau = dynamic(student, teacher, 4.0, valid)
            kept = tau[:, 0].masked_fill(~valid, 0).sum(axes)
            torch.testing.assert_close(
                kept / valid.sum(axes), torch.full_like(kept, 4.0))
    tau = FLSW()(student, teacher, 4.0)
    assert tau[1].mean() > tau[0].mean() + 0.2


@pytest.mark.parametrize('minimum', [1.0, 0.1])
def test_minimum_takes_hold(minimum):
    student, teacher = maps(2, 4, 3, 5)
    for kind in (FLSW, CWSM):
        tau = kind(beta=1e3, minimum=minimum)(student, teacher, 2.0)
        assert tau.min().item() == minimum
        assert (tau == minimum).sum() > 1
        assert tau.max() > 100


@every_option
def test_enlarged_map_has_the_same_value(adjust, dynamic):
    student, teacher = maps(2, 4, 3, 5)
    label = labels(2, 3, 5, classes=4)
    big = [m.repeat_interleave(2, 2).repeat_interleave(2, 3)
           for m in (student, teacher)]
    loss = KDLoss(2.0, adjust=adjust, dynamic_temperature=dynamic)
    torch.testing.assert_close(
        loss(*big, label=label), loss(student, teacher, label=label))


@every_option
def test_ignored_pixels_take_no_part(adjust, dynamic):
    student, teacher = maps(2, 4, 3, 5)
    label = labels(2, 3, 5, classes=4)
    ignored = (label == 255)[:, None].expand_as(student)
    changed = (student.masked_fill(ignored, 50.0),
               teacher.masked_fill(ignored, -50.0))
    loss = KDLoss(2.0, adjust=adjust, dynamic_temperature=dynamic)
    student.requires_grad_()
    value = loss(student, teacher, label=label)
    value.backward()
    torch.testing.assert_close(loss(*changed, label=label), value)
    assert (student.grad[ignored] == 0).all()
    assert (student.grad[~ignored] != 0).all()


@every_option
@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
def test_all_ignored_is_exactly_zero(dtype, adjust, dynamic):
    student, teacher = (m.to(dtype) for m in maps(2, 4, 3, 5))
    loss = KDLoss(2.0, adjust=adjust, dynamic_temperature=dynamic)
    label = torch.full((2, 3, 5), 255)
    student.requires_grad_()
    value = loss(student, teacher, label=label)
    value.backward()
    assert value.item() == 0
    assert (student.grad == 0).all()
    # one image without annotation does not spoil the other
    label[0] = 1
    student.grad = None
    value = loss(student, teacher, label=label)
    value.backward()
    assert value.isfinite() and value > 0
    assert student.grad.isfinite().all() and (student.grad[1] == 0).all()
    alone = loss(student[:1], teacher[:1], label=label[:1])
    torch.testing.assert_close(value, alone)


@every_option
def test_gradient_for_the_student_only(adjust, dynamic):
    student, teacher = maps(2, 4, 3, 5)
    student.requires_grad_(), teacher.requires_grad_()
    loss = KDLoss(2.0, adjust=adjust, dynamic_temperature=dynamic)
    loss(student, teacher, label=labels(2, 3, 5, classes=4)).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize('adjust', ADJUSTMENTS[1:])
def test_gradient_is_the_derivative(adjust):
    student, teacher = maps(2, 3, 2, 2)
    label = labels(2, 2, 2)
    assert torch.autograd.gradcheck(
        lambda s: kd_loss(s, teacher, label=label, temperature=2.0,
                          adjust=adjust),
        student.requires_grad_())


@pytest.mark.parametrize('adjust', [None, SHIFT])
@pytest.mark.parametrize('dynamic', DYNAMICS[1:])
def test_temperature_is_a_constant_for_the_gradient(adjust, dynamic):
    student, teacher = maps(2, 3, 3, 2)
    label = labels(2, 3, 2)
    valid = label != 255
    tau = build_option('dynamic_temperature', dynamic, (FLSW, CWSM))(
        student.requires_grad_(), teacher.requires_grad_(), 2.0, valid)
    assert not tau.requires_grad and tau.std() > 0.1
    options = dict(adjust=adjust, dynamic_temperature=dynamic)
    slope, = torch.autograd.grad(
        kd_loss(student, teacher, label=label, temperature=2.0, **options),
        student)
    step = torch.zeros_like(student)
    with torch.no_grad():
        target = (teacher / tau).log_softmax(dim=1)
        if adjust:
            target = ProbabilityShift()(target, label)

        def value(logits):
            log_q = (logits / tau).log_softmax(dim=1)
            row = (target.exp() * (target - log_q)).sum(dim=1)
            return (row * tau[:, 0]**2)[valid].mean()

        for index in range(student.numel()):
            step.zero_().view(-1)[index] = 1e-6
            expected = (value(student + step) - value(student - step)) / 2e-6
            assert slope.view(-1)[index].item() == pytest.approx(
                expected.item(), rel=1e-5, abs=1e-8)


@every_option
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype, adjust, dynamic):
    student, teacher = (m.to(dtype) for m in maps(2, 4, 3, 5))
    label = labels(2, 3, 5, classes=4)
    loss = KDLoss(2.0, adjust=adjust, dynamic_temperature=dynamic)
    expected = loss(student.float(), teacher.float(), label=label)
    student.requires_grad_()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value = loss(student, teacher, label=label)
    assert value.dtype == torch.float32 and torch.equal(value, expected)
    value.backward()
    assert student.grad.dtype == dtype and student.grad.isfinite().all()
    torch.testing.assert_close(
        loss(student.double(), teacher, label=label), expected.double(),
        rtol=1e-5, atol=1e-6)


def test_options_take_half_precision():
    student, teacher = (m.half() for m in maps(2, 4, 3, 5))
    for dynamic in (FLSW(), CWSM()):
        with torch.autocast('cpu', dtype=torch.bfloat16):
            tau = dynamic(student, teacher, 2.0)
        assert torch.equal(
            tau, dynamic(student.float(), teacher.float(), 2.0))
    log_q = teacher.float().log_softmax(dim=1).half()
    label = labels(2, 3, 5, classes=4)
    for adjust in (ProbabilityShift(), LabelSmoothing(1.0)):
        changed = adjust(log_q, label)
        assert changed.dtype == torch.half and changed.isfinite().all()


@every_option
@pytest.mark.parametrize('dtype',
                         [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_maps_stay_finite(dtype, adjust, dynamic):
    large, other = (1e4 * m for m in maps(2, 4, 3, 5))
    tiny, _ = (1e-4 * m for m in maps(2, 4, 3, 5))
    zero = torch.zeros(2, 4, 3, 5)
    label = labels(2, 3, 5, classes=4)
    loss = KDLoss(2.0, adjust=adjust, dynamic_temperature=dynamic)
    for student, teacher in (
            (large, other), (large, large), (large, -large), (zero, other),
            (other, zero), (zero, zero), (tiny, large),
            (zero + 1e4, zero - 1e4), (zero + 0.1, tiny)):
        student = student.to(dtype).requires_grad_()
        value = loss(student, teacher.to(dtype), label=label)
        value.backward()
        assert value.isfinite() and value > -1e-6
        assert student.grad.isfinite().all()


def test_power_of_a_rounding_error():
    # the cosine of a map with itself comes out above 1 here and there
    student = torch.randn(1, 19, 40, 40) * 1e4
    tau = FLSW(gamma=0.5)(student, student, 2.0)
    assert tau.isfinite().all()
    torch.testing.assert_close(tau, torch.full_like(tau, 2.0), atol=1e-2,
                               rtol=0)


@every_option
def test_one_class(adjust, dynamic):
    student, teacher = maps(2, 1, 3, 5)
    loss = KDLoss(2.0, adjust=adjust, dynamic_temperature=dynamic)
    assert loss(student, teacher, label=labels(2, 3, 5, classes=1)) == 0


@every_option
def test_module_equals_function(adjust, dynamic):
    student, teacher = maps(2, 4, 3, 5)
    label = labels(2, 3, 5, classes=4)
    options = dict(adjust=adjust, dynamic_temperature=dynamic)
    plain = dict(label=label, temperature=2.0, ignore_index=3)
    expected = kd_loss(student, teacher, **plain, **options)
    loss = KDLoss(2.0, 3, **copy.deepcopy(options))
    for module in (loss, copy.deepcopy(loss),
                   pickle.loads(pickle.dumps(loss))):
        assert torch.equal(module(student, teacher, label=label), expected)
    assert kd_loss(student, teacher, **plain) != expected
    assert not loss.state_dict()


def test_build():
    def build(cfg):
        return build_option('adjust', cfg, KINDS)

    assert build(None) is None
    built = build(dict(SMOOTH, correct=0.7))
    assert built == LabelSmoothing(0.7) != LabelSmoothing()
    assert build(built) is built
    assert build(SMOOTH) == LabelSmoothing()
    # left by inheritance from the config of a package
    assert build(dict(SHIFT, _scope_='mmseg')) == ProbabilityShift()
    assert KDLoss(2.0, dynamic_temperature=dict(
        type='FLSW', mean='image')).dynamic_temperature == FLSW(mean='image')


def test_config_of_a_config_file_is_left_alone():
    config = pytest.importorskip('mmengine').ConfigDict(
        adjust=dict(SMOOTH, correct=0.7, _scope_='mmseg'),
        dynamic_temperature=dict(type='FLSW', beta=2.0))
    before = config.to_dict()
    loss = KDLoss(2.0, **config)
    assert loss.adjust == LabelSmoothing(0.7)
    assert loss.dynamic_temperature == FLSW(beta=2.0)
    assert config.to_dict() == before


BAD = [
    ('adjust', 'ProbabilityShft',
     ["None or a dict with the key 'type'", "'ProbabilityShft'",
      "nearest: 'ProbabilityShift'"]),
    ('adjust', [SHIFT], ['None or a dict']),
    ('adjust', True, ['None or a dict', 'True']),
    ('adjust', FLSW(), ['None or a dict', 'FLSW(beta=1.0']),
    ('adjust', dict(correct=0.9),
     ["the key 'type'", "{'correct': 0.9}",
      "allowed: 'LabelSmoothing', 'ProbabilityShift'"]),
    ('adjust', {}, ["the key 'type'", '{}']),
    ('adjust', dict(type='LabelSmooth'),
     ['known type', "'LabelSmooth'", "nearest: 'LabelSmoothing'"]),
    ('adjust', dict(type='FLSW'), ['known type', "'FLSW'", 'allowed']),
    ('adjust', dict(type=['FLSW']), ['known type', "['FLSW']"]),
    ('adjust', dict(SMOOTH, corect=0.9),
     ['keys of LabelSmoothing', "'corect'", "nearest: 'correct'"]),
    ('adjust', dict(SHIFT, correct=0.9),
     ['keys of ProbabilityShift', "'correct'", 'allowed: nothing']),
    ('adjust', dict(SMOOTH, correct=0), ['correct must be', '0']),
    ('adjust', dict(SMOOTH, correct=1.5),
     ['correct must be', 'above 0, from 1e-12 to 1', '1.5']),
    ('adjust', dict(SMOOTH, correct='0.9'), ['correct must be', "'0.9'"]),
    ('dynamic_temperature', 'FLWS',
     ['None or a dict', "'FLWS'", "nearest: 'FLSW'"]),
    ('dynamic_temperature', 2.0, ['None or a dict', '2.0']),
    ('dynamic_temperature', dict(beta=1.0), ["the key 'type'"]),
    ('dynamic_temperature', dict(type='CWMS'),
     ['known type', "'CWMS'", "nearest: 'CWSM'"]),
    ('dynamic_temperature', dict(type='CWSM', gamma=1.0),
     ['keys of CWSM', "'gamma'", 'allowed']),
    ('dynamic_temperature', dict(type='FLSW', minmum=1.0),
     ['keys of FLSW', "'minmum'", "nearest: 'minimum'"]),
    ('dynamic_temperature', dict(type='FLSW', beta=-1), ['beta', '-1']),
    ('dynamic_temperature', dict(type='CWSM', beta=math.inf),
     ['beta', 'inf']),
    ('dynamic_temperature', dict(type='FLSW', gamma=-0.5),
     ['gamma', '-0.5']),
    ('dynamic_temperature', dict(type='CWSM', minimum=0),
     ['minimum', '0']),
    ('dynamic_temperature', dict(type='FLSW', mean='pixel'),
     ["mean must be one of 'batch', 'image'", "'pixel'"]),
]


@pytest.mark.parametrize('name, config, parts', BAD)
def test_bad_config(name, config, parts):
    logits = torch.zeros(1, 2, 1, 1)
    for call in (lambda: KDLoss(2.0, **{name: config}),
                 lambda: kd_loss(logits, logits, temperature=2.0,
                                 **{name: config})):
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value).startswith(name)
        for part in parts:
            assert part in str(error.value)


def test_temperature_below_the_minimum():
    logits = torch.zeros(1, 2, 1, 1)
    for kind, cls in (('FLSW', FLSW()), ('CWSM', CWSM())):
        dynamic = dict(type=kind, minimum=1.5)
        for call in (
                KDLoss, functools.partial(kd_loss, logits, logits)):
            with pytest.raises(ValueError) as error:
                call(dynamic_temperature=dynamic)
            assert 'temperature=1.0 and minimum=1.5' in str(error.value)
        KDLoss(1.5, dynamic_temperature=dynamic)
        with pytest.raises(ValueError, match='=0.5 and minimum=1.0'):
            cls(logits, logits, 0.5)


def test_bad_arguments_of_the_options():
    logits = torch.zeros(2, 2, 3, 5)
    label = torch.zeros(2, 3, 5).long()
    with pytest.raises(ValueError, match='correct must be .* got 2'):
        LabelSmoothing(2)
    with pytest.raises(ValueError, match='gamma must be .* got nan'):
        FLSW(gamma=math.nan)
    with pytest.raises(ValueError, match=r'\(2, 2, 3, 5\).*\(2, 3, 3, 5\)'):
        FLSW()(logits, torch.zeros(2, 3, 3, 5))
    for dynamic in (FLSW(), CWSM()):
        with pytest.raises(ValueError, match=r'\(2, 3, 5\).*\(2, 1, 3, 5\)'):
            dynamic(logits, logits, valid=torch.ones(2, 1, 3, 5).bool())
    for adjust in (ProbabilityShift(), LabelSmoothing()):
        with pytest.raises(ValueError, match=r'\(1, 3, 5\).*\(2, 2, 3, 5\)'):
            adjust(logits, label[:1])
        with pytest.raises(TypeError, match='integers'):
            adjust(logits, label.float())
        with pytest.raises(TypeError, match='int64'):
            adjust(logits.long(), label)


def test_label_of_another_batch():
    logits = torch.zeros(2, 4, 3, 5)
    with pytest.raises(ValueError, match=r'\(1, 3, 5\).*\(2, 4, 3, 5\)'):
        kd_loss(logits, logits, label=torch.zeros(1, 3, 5).long(),
                ignore_index=None, adjust=SHIFT)
