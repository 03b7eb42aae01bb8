import copy
import math

import pytest
import torch

from mmselfkd.losses import kd_loss
from mmselfkd.losses.mixskd_loss import (
    FeatureDiscriminator,
    MixSKDAdversarialLoss,
    MixSKDFeatureLoss,
    MixSKDLogitLoss,
    mixskd_feature_loss,
    mixskd_logit_loss,
)

SHAPES = [(1, 3, 4, 5), (2, 4, 5, 3), (3, 2, 1, 1)]


def maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(shape, generator=generator, dtype=torch.float64)
    return student, 2 * torch.randn(
        shape, generator=generator, dtype=torch.float64)


def built(channels=4, hidden=8, seed=0):
    torch.manual_seed(seed)
    loss = MixSKDAdversarialLoss(hidden=hidden)
    loss.build(*maps(2, channels, 2, 2))
    return loss


def naive_features(first, second):
    total, count = 0.0, 0
    for a, b in zip(first.flatten().tolist(), second.flatten().tolist()):
        total += (a - b)**2
        count += 1
    return total / count


def naive_logits(first, second, valid, temperature):
    """Both directions by loops, ``valid`` (N, H, W) at the logits' size."""
    batch, _, height, width = first.shape
    total, count = 0.0, 0
    for n in range(batch):
        for y in range(height):
            for x in range(width):
                if not valid[n, y, x]:
                    continue
                count += 1
                rows = []
                for z in (first[n, :, y, x], second[n, :, y, x]):
                    e = [math.exp(v / temperature) for v in z.tolist()]
                    rows.append([v / sum(e) for v in e])
                for a, b in zip(*rows):
                    total += temperature**2 * b * math.log(b / a)
                    total += temperature**2 * a * math.log(a / b)
    return total / count if count else 0.0


def naive_adversarial(loss, first, second):
    """Both binary cross entropies by loops over images and outputs."""
    total = 0.0
    first_layer, _, second_layer = loss.discriminator.layers
    for maps, target in ((first, (1, 0)), (second, (0, 1))):
        for features in maps:
            mean = [c.sum().item() / c.numel() for c in features]
            hidden = [
                max(sum(w * m for w, m in zip(row, mean)) + b, 0)
                for row, b in zip(first_layer.weight.tolist(),
                                  first_layer.bias.tolist())]
            for row, b, goal in zip(second_layer.weight.tolist(),
                                    second_layer.bias.tolist(), target):
                p = 1 / (1 + math.exp(
                    -sum(w * h for w, h in zip(row, hidden)) - b))
                total -= math.log(p if goal else 1 - p) / 4 / len(maps)
    return total


# features

def test_hand_value_of_the_features():
    student = torch.tensor([1., 2., -1., 0.]).view(1, 2, 1, 2)
    teacher = torch.tensor([1., 0., 2., 0.]).view(1, 2, 1, 2)
    student.requires_grad_(), teacher.requires_grad_()
    value = mixskd_feature_loss(student, teacher)
    value.backward()
    assert value.item() == (4 + 9) / 4
    expected = torch.tensor([0., 4., -6., 0.]).view(1, 2, 1, 2) / 4
    assert torch.equal(student.grad, expected)
    assert torch.equal(teacher.grad, -expected)


@pytest.mark.parametrize('shape', SHAPES)
def test_equation_of_the_features(shape):
    first, second = maps(*shape)
    expected = naive_features(first, second)
    value = mixskd_feature_loss(first, second)
    assert value.item() == pytest.approx(expected, rel=1e-9)
    value = mixskd_feature_loss(first.float(), second.float())
    assert value.item() == pytest.approx(expected, rel=1e-5)


# logits

def test_hand_value_of_the_logits():
    # (1/2, 1/2) and (3/4, 1/4) in both directions
    teacher = torch.tensor([math.log(3), 0.0]).view(1, 2, 1, 1)
    expected = (0.75 * math.log(1.5) - 0.25 * math.log(2)
                + 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(2))
    student = torch.zeros(1, 2, 1, 1)
    value = mixskd_logit_loss(student, teacher, temperature=1.0)
    torch.testing.assert_close(value, torch.tensor(expected))
    # T = 3 is the default: the same probabilities, times 3**2
    value = mixskd_logit_loss(student, 3 * teacher)
    torch.testing.assert_close(value, torch.tensor(9 * expected))


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('temperature', [3.0, 1.0])
def test_equation_of_the_logits(shape, temperature):
    first, second = maps(*shape)
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(
        3, (shape[0], 2 * shape[2], 2 * shape[3]), generator=generator)
    label[label == 2] = 255
    everywhere = torch.ones(shape[0], *shape[2:])
    for seen, valid in ((None, everywhere),
                        (label, label[:, ::2, ::2] != 255)):
        options = dict(label=seen, temperature=temperature)
        expected = naive_logits(first, second, valid, temperature)
        value = mixskd_logit_loss(first, second, **options)
        assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
        value = mixskd_logit_loss(first.float(), second.float(), **options)
        assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_each_side_has_the_other_as_a_fixed_teacher():
    first, second = maps(2, 4, 3, 5)
    label = torch.arange(30).view(2, 3, 5) % 4
    label[label == 3] = 255
    first.requires_grad_(), second.requires_grad_()
    slopes = torch.autograd.grad(
        mixskd_logit_loss(first, second, label=label), (first, second))
    for slope, own, other in zip(slopes, (first, second), (second, first)):
        expected, = torch.autograd.grad(
            kd_loss(own, other, label=label, temperature=3.0), own)
        torch.testing.assert_close(slope, expected)
        assert slope.abs().sum() > 0
        ignored = (label == 255)[:, None].expand_as(slope)
        assert (slope[ignored] == 0).all()


@pytest.mark.parametrize('loss', [mixskd_feature_loss, mixskd_logit_loss])
def test_both_sides_are_equal(loss):
    first, second = maps(2, 4, 3, 5)
    torch.testing.assert_close(loss(first, second), loss(second, first))
    assert loss(first, first) == 0 < loss(first, second)


def test_all_ignored_is_exactly_zero():
    first, second = maps(2, 4, 3, 5)
    first.requires_grad_(), second.requires_grad_()
    value = mixskd_logit_loss(first, second, label=torch.full((2, 3, 5), 255))
    value.backward()
    assert value.item() == 0
    assert (first.grad == 0).all() and (second.grad == 0).all()


def test_ignore_index():
    first, second = maps(1, 4, 1, 2)
    label = torch.tensor([[[-1, 255]]])
    torch.testing.assert_close(
        mixskd_logit_loss(first, second, label=label, ignore_index=-1),
        mixskd_logit_loss(first[..., 1:], second[..., 1:]))
    assert torch.equal(
        mixskd_logit_loss(first, second, label=label, ignore_index=None),
        mixskd_logit_loss(first, second))


# the adversary

def test_hand_value_of_the_adversary():
    loss = built(1)
    for parameter in loss.discriminator.parameters():
        parameter.data.zero_()
    first, second = maps(2, 1, 3, 5)
    # every output is 0: a mean of ln 2 over both kinds
    expected = torch.tensor(math.log(2))
    torch.testing.assert_close(loss(first, second), expected)
    # outputs (1, -1) for both kinds: right for the first, wrong for the other
    loss.discriminator.layers[2].bias.data.copy_(torch.tensor([1., -1.]))
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2
    torch.testing.assert_close(
        loss.discriminator_loss(first, second), torch.tensor(expected))


@pytest.mark.parametrize('shape', SHAPES)
def test_equation_of_the_adversary(shape):
    first, second = maps(*shape)
    loss = built(shape[1]).double()
    expected = naive_adversarial(loss, first, second)
    for call in (loss, loss.discriminator_loss):
        assert call(first, second).item() == pytest.approx(
            expected, rel=1e-9)
    loss.float()
    for call in (loss, loss.discriminator_loss):
        assert call(first.float(), second.float()).item() == pytest.approx(
            expected, rel=1e-5)


def test_gradient_is_reversed():
    first, second = maps(2, 4, 3, 5)
    loss = built().double()
    first.requires_grad_(), second.requires_grad_()
    value = loss(first, second)
    value.backward()
    plain = torch.tensor(0.0).double()
    for features, target in ((first, [1., 0.]), (second, [0., 1.])):
        p = loss.discriminator(features).sigmoid()
        goal = torch.tensor(target).double()
        plain = plain - (
            goal * p.log() + (1 - goal) * (1 - p).log()).mean() / 2
    torch.testing.assert_close(value, plain)
    slopes = torch.autograd.grad(plain, (first, second))
    for features, slope in zip((first, second), slopes):
        assert slope.abs().sum() > 0
        torch.testing.assert_close(features.grad, -slope)
    # as a part of a total too
    torch.testing.assert_close(
        torch.autograd.grad(0.1 * loss(first, second), first)[0],
        -0.1 * slopes[0])


def test_network_term_trains_the_network_only():
    first, second = maps(2, 4, 3, 5)
    first.requires_grad_(), second.requires_grad_()
    loss = built()
    before = copy.deepcopy(loss.state_dict())
    loss(first, second).backward()
    for features in (first, second):
        assert features.grad.abs().sum() > 0
    for name, parameter in loss.named_parameters():
        assert parameter.grad is None and parameter.requires_grad
        assert torch.equal(parameter, before[name])


def test_discriminator_loss_trains_the_discriminator_only():
    first, second = maps(2, 4, 3, 5)
    first.requires_grad_(), second.requires_grad_()
    loss = built()
    loss.discriminator_loss(first, second).backward()
    assert first.grad is None and second.grad is None
    for name, parameter in loss.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_gradient_of_the_discriminator_is_the_derivative():
    first, second = maps(2, 3, 2, 2)
    loss = built(3, hidden=4).double()
    weight = loss.discriminator.layers[0].weight
    loss.discriminator_loss(first, second).backward()
    for index in range(weight.numel()):
        values = []
        for step in (1e-6, -2e-6):
            weight.data.view(-1)[index] += step
            values.append(loss.discriminator_loss(first, second).item())
        weight.data.view(-1)[index] += 1e-6
        assert weight.grad.view(-1)[index].item() == pytest.approx(
            (values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-8)


def test_discriminator_learns_to_separate():
    first, second = maps(8, 4, 3, 5)
    first[:, 0] += 2  # separable by the mean of one channel
    loss = built().double()
    config = dict(loss.optimizer_cfg, lr=0.2)
    optimizer = getattr(torch.optim, config.pop('type'))(
        loss.discriminator.parameters(), **config)
    start = loss(first, second).item()
    for _ in range(30):
        optimizer.zero_grad()
        loss.discriminator_loss(first, second).backward()
        optimizer.step()
    assert loss(first, second).item() < 0.15 < 0.5 < start


def test_both_play_in_turn():
    # the maps differ by 2 in one channel: the discriminator learns to see
    # it, and the network to hide it
    _, second = maps(8, 4, 3, 5, seed=1)
    offset = torch.tensor([2., 0., 0., 0.]).double().view(1, 4, 1, 1)
    offset.requires_grad_()
    loss = built(seed=1).double()
    network = torch.optim.SGD([offset], lr=1.0)
    discriminator = torch.optim.SGD(loss.parameters(), lr=0.6)

    def turn():
        discriminator.zero_grad()
        loss.discriminator_loss(second + offset, second).backward()
        discriminator.step()
        return loss(second + offset, second).item()

    for _ in range(30):
        seen = turn()
    for _ in range(60):
        network.zero_grad()
        loss(second + offset, second).backward()
        network.step()
        hidden = turn()
    assert seen < 0.15
    assert offset.abs().max() < 0.3
    assert hidden == pytest.approx(math.log(2), abs=0.05)


def test_created_at_the_first_call():
    first, second = maps(2, 4, 3, 5)
    for call in ('forward', 'discriminator_loss'):
        loss = MixSKDAdversarialLoss(hidden=6)
        assert loss.discriminator is None and not loss.state_dict()
        getattr(loss, call)(first, second)
        made = loss.discriminator
        assert made.layers[0].weight.shape == (6, 4)
        loss(first, second)
        assert loss.discriminator is made
    loss.build(*maps(2, 7, 2, 2), torch.zeros(2, 3, 8, 8))
    assert loss.discriminator.layers[0].weight.shape == (6, 7)
    assert isinstance(loss.discriminator, FeatureDiscriminator)


def test_state_dict_round_trip():
    first, second = maps(2, 4, 3, 5)
    loss, other = built(), MixSKDAdversarialLoss(hidden=8)
    other.build(first, second)
    assert other(first, second) != loss(first, second)
    state = loss.state_dict()
    assert all(key.startswith('discriminator.') for key in state)
    other.load_state_dict(state, strict=True)
    assert torch.equal(other(first, second), loss(first, second))


def test_image_is_not_used():
    first, second = maps(2, 4, 3, 5)
    loss = built()
    value = loss(first, second)
    assert torch.equal(
        loss.discriminator_loss(first, second, image=torch.zeros(2, 3, 6, 9)),
        value)


def test_optimizer_config():
    assert MixSKDAdversarialLoss().optimizer_cfg == dict(
        type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4)
    config = dict(type='Adam', lr=1e-4)
    assert MixSKDAdversarialLoss(optimizer=config).optimizer_cfg == config


@pytest.mark.parametrize('hidden', [0, -1, 2.5, True, '8', None])
def test_bad_hidden(hidden):
    with pytest.raises(ValueError) as error:
        MixSKDAdversarialLoss(hidden)
    assert 'hidden must be an integer of 1 or more' in str(error.value)
    assert repr(hidden) in str(error.value)


# all three

LOSSES = [MixSKDFeatureLoss(), MixSKDLogitLoss(), built()]
every_loss = pytest.mark.parametrize(
    'loss', LOSSES, ids=['features', 'logits', 'adversarial'])


@every_loss
def test_gradient_for_both(loss):
    first, second = maps(2, 4, 3, 5)
    first.requires_grad_(), second.requires_grad_()
    loss(first, second).backward()
    for features in (first, second):
        assert features.grad.shape == (2, 4, 3, 5)
        assert features.grad.abs().sum() > 0


def test_gradient_is_the_derivative():
    pair = [m.requires_grad_() for m in maps(2, 3, 2, 2)]
    assert torch.autograd.gradcheck(mixskd_feature_loss, pair)
    loss = built(3).double()

    def turned(*maps):  # the same value with the gradient turned back
        value = loss(*maps)
        return 2 * value.detach() - value

    assert torch.autograd.gradcheck(turned, pair)


@every_loss
def test_does_not_depend_on_batch_or_size(loss):
    first, second = maps(2, 4, 3, 5)
    expected = loss(first, second)
    torch.testing.assert_close(
        loss(first.repeat(3, 1, 1, 1), second.repeat(3, 1, 1, 1)), expected)
    big = [m.repeat_interleave(2, 2).repeat_interleave(2, 3)
           for m in (first, second)]
    torch.testing.assert_close(loss(*big), expected)


@every_loss
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    first, second = (m.to(dtype) for m in maps(2, 4, 3, 5))
    expected = loss(first.float(), second.float())
    assert expected.dtype == torch.float32
    first.requires_grad_(), second.requires_grad_()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value = loss(first, second)
        assert torch.equal(loss(first, second.float()), value)
        if hasattr(loss, 'discriminator_loss'):
            assert torch.equal(
                loss.discriminator_loss(first, second), expected)
    assert torch.equal(value, expected)
    value.backward()
    for features in (first, second):
        assert features.grad.dtype == dtype
        assert features.grad.isfinite().all()


@every_loss
def test_extreme_maps_stay_finite(loss):
    large, other = (1e4 * m.float() for m in maps(2, 4, 3, 5))
    zero = torch.zeros(2, 4, 3, 5)
    for pair in ((large, other), (zero, other), (zero, zero),
                 (zero + 1e4, zero - 1e4)):
        pair = [m.clone().requires_grad_() for m in pair]
        value = loss(*pair)
        value.backward()
        assert value.isfinite()
        assert all(m.grad.isfinite().all() for m in pair)


@every_loss
def test_error_shows_both_shapes(loss):
    calls = [loss, getattr(loss, 'discriminator_loss', loss)]
    for other in ((1, 4, 4, 3), (1, 5, 3, 4), (2, 4, 3, 4), (4, 3, 4)):
        for call in calls:
            with pytest.raises(ValueError) as error:
                call(torch.zeros(1, 4, 3, 4), torch.zeros(other))
            assert '(1, 4, 3, 4)' in str(error.value)
            assert str(other) in str(error.value)
    for call in calls:
        with pytest.raises(TypeError, match='student.*int64'):
            call(torch.zeros(1, 4, 3, 4).long(), torch.zeros(1, 4, 3, 4))


@pytest.mark.parametrize('name, value, allowed', [
    ('temperature', 0, 'a finite number above 0'),
    ('temperature', math.nan, 'a finite number above 0'),
    ('ignore_index', 2.5, ''),
])
def test_bad_arguments(name, value, allowed):
    logits = torch.zeros(1, 4, 3, 4)
    for call in (lambda: MixSKDLogitLoss(**{name: value}),
                 lambda: mixskd_logit_loss(logits, logits, **{name: value})):
        with pytest.raises(ValueError) as error:
            call()
        assert f'{name} must be {allowed}' in str(error.value)
        assert repr(value) in str(error.value)


def test_module_equals_function():
    first, second = maps(2, 4, 3, 5)
    label = torch.arange(30).view(2, 3, 5) % 4
    assert torch.equal(MixSKDFeatureLoss()(first, second),
                       mixskd_feature_loss(first, second))
    assert torch.equal(MixSKDLogitLoss()(first, second, label=label),
                       mixskd_logit_loss(first, second, label=label))
    expected = mixskd_logit_loss(
        first, second, label=label, temperature=2.0, ignore_index=3)
    assert torch.equal(MixSKDLogitLoss(2.0, 3)(first, second, label=label),
                       expected)
    assert expected != mixskd_logit_loss(first, second, label=label)
