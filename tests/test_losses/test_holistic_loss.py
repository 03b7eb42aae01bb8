import copy
import functools

import pytest
import torch

from mmselfkd.losses import (
    HolisticLoss,
    holistic_discriminator_loss,
    holistic_loss,
)
from mmselfkd.losses.holistic_loss import _penalty


def maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(shape, generator=generator)
    teacher = 2 * torch.randn(shape, generator=generator)
    image = torch.randn(
        shape[0], 3, 4 * shape[2], 4 * shape[3], generator=generator)
    return student, teacher, image


def build(loss, classes=4):
    """For so many classes and images of three channels."""
    student, teacher, image = maps(2, classes, 2, 2)
    loss.build(student, teacher, image)


def built(classes=4, **options):
    loss = HolisticLoss(**options)
    loss.discriminator = copy.deepcopy(
        discriminator(classes, loss.conditional))
    return loss


@functools.cache
def discriminator(classes, conditional):
    torch.manual_seed(0)
    loss = HolisticLoss(conditional=conditional)
    build(loss, classes)
    # attention starts switched off: let the tests see it
    for name, parameter in loss.named_parameters():
        if name.endswith('gamma'):
            parameter.data.fill_(0.5)
    return loss.discriminator


def buffers(loss):
    return {k: v.clone() for k, v in loss.named_buffers()}


def scores(loss, logits, image):
    loss.discriminator.eval()
    with torch.no_grad():
        return loss.discriminator(logits, image)


@pytest.mark.parametrize('mode', ['wgan-gp', 'hinge'])
@pytest.mark.parametrize('conditional', [True, False])
def test_student_term_is_minus_the_mean_score(mode, conditional):
    student, teacher, image = maps(2, 4, 8, 6)
    loss = built(mode=mode, conditional=conditional)
    image = image if conditional else None
    expected = -scores(loss, student, image).mean()
    value = loss(student, teacher, image=image)
    torch.testing.assert_close(value, expected)
    assert torch.equal(loss(student, 0 * teacher, image=image), value)


def test_hand_values_with_given_scores():
    class Given(torch.nn.Module):
        """Score = first logit of the image."""
        num_classes = 1

        def __init__(self):
            super().__init__()
            self.score = torch.nn.Conv2d(1, 1, 1)

        def forward(self, logits, image=None, batches=1):
            return logits[:, 0, 0, 0]

    student = torch.tensor([-3., 0.5]).view(2, 1, 1, 1)
    teacher = torch.tensor([0.25, 4.]).view(2, 1, 1, 1)
    expected = {
        # relu(1 - t): 0.75, 0; relu(1 + s): 0, 1.5; each a mean of two
        'hinge': 0.375 + 0.75,
        # -1.25 - 2.125; the gradient has norm 1 at every image
        'wgan-gp': -3.375,
    }
    for mode, value in expected.items():
        loss = HolisticLoss(mode, conditional=False)
        loss.discriminator = Given()
        assert loss(student, teacher).item() == 1.25
        assert loss.discriminator_loss(student, teacher).item() == value
    # two pixels share the score: each has slope 1/2, the norm is 1/sqrt(2)
    loss.discriminator.forward = lambda logits, *_, **__: logits.mean(
        (1, 2, 3))
    wide = student.expand(2, 1, 1, 2), teacher.expand(2, 1, 1, 2)
    torch.testing.assert_close(
        loss.discriminator_loss(*wide),
        torch.tensor(-3.375 + 10 * (0.5**0.5 - 1)**2))


@pytest.mark.parametrize('conditional', [True, False])
def test_gradient_penalty(conditional):
    """Against gradients taken by central differences, in float64."""
    student, teacher, image = (m.double() for m in maps(2, 1, 3, 2))
    image = image if conditional else None
    loss = built(1, conditional=conditional, gradient_penalty=3.0).double()
    torch.manual_seed(5)
    value = loss.discriminator_loss(student, teacher, image=image)
    torch.manual_seed(5)
    share = torch.rand(2, 1, 1, 1, dtype=torch.float64)
    mixed = share * teacher + (1 - share) * student
    # the iteration of that step is done: the same weights again
    slope = torch.zeros_like(mixed)
    for index in range(mixed.numel()):
        step = torch.zeros_like(mixed)
        step.view(-1)[index] = 1e-5
        slope.view(-1)[index] = (
            scores(loss, mixed + step, image).sum()
            - scores(loss, mixed - step, image).sum()) / 2e-5
    norm = [slope[n].square().sum().sqrt() for n in range(2)]
    expected = (
        scores(loss, student, image).mean()
        - scores(loss, teacher, image).mean()
        + 3.0 * sum((n - 1)**2 for n in norm) / 2)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-9)


def test_penalty_trains_the_discriminator():
    # the derivative of the penalty by a weight, by central differences
    student, teacher, image = (m.double() for m in maps(2, 2, 4, 6))
    loss = built(2).double()
    loss.discriminator.train()
    weight = loss.discriminator.norm.weight

    def penalty():
        torch.manual_seed(5)
        loss.discriminator.eval()
        return _penalty(student, teacher, image, loss.discriminator)

    slope, = torch.autograd.grad(penalty(), weight)
    with torch.no_grad():
        weight[0, 1] += 1e-5
    above = penalty()
    with torch.no_grad():
        weight[0, 1] -= 2e-5
    below = penalty()
    torch.testing.assert_close(
        slope[0, 1].squeeze(), (above - below) / 2e-5, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize('conditional', [True, False])
def test_student_term_trains_the_student_only(conditional):
    student, teacher, image = maps(2, 4, 8, 6)
    student.requires_grad_(), teacher.requires_grad_(), image.requires_grad_()
    loss = built(conditional=conditional)
    before = buffers(loss)
    loss(student, teacher, image=image).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None and image.grad is None
    for parameter in loss.parameters():
        assert parameter.grad is None and parameter.requires_grad
    for name, buffer in loss.named_buffers():
        assert torch.equal(buffer, before[name])


@pytest.mark.parametrize('mode', ['wgan-gp', 'hinge'])
def test_discriminator_loss_trains_the_discriminator_only(mode):
    student, teacher, image = maps(2, 4, 18, 33)
    student.requires_grad_(), teacher.requires_grad_()
    loss = built(mode=mode)
    before = buffers(loss)
    loss.discriminator_loss(student, teacher, image=image).backward()
    assert student.grad is None and teacher.grad is None
    for name, parameter in loss.named_parameters():
        assert parameter.grad.isfinite().all(), name
        # a shift of all keys, or of all scores in a difference, is no change
        if not name.endswith(('key.bias', 'score.bias')):
            assert parameter.grad.abs().sum() > 0, name
    changed = [k for k, v in loss.named_buffers()
               if not torch.equal(v, before[k])]
    assert len(changed) == len(before) == 8


def test_one_power_iteration_a_step():
    student, teacher, image = maps(2, 4, 8, 6)
    loss = built()
    first = loss.discriminator.blocks[0]
    norm, matrix = first.parametrizations.norm[0], first.weight.detach()
    before = norm.v
    expected = torch.nn.functional.normalize(matrix @ before, dim=0)
    loss.discriminator_loss(student, teacher, image=image)
    torch.testing.assert_close(norm.u, expected)
    torch.testing.assert_close(
        norm.v, torch.nn.functional.normalize(matrix.T @ expected, dim=0))
    assert not torch.equal(norm.v, before)


@pytest.mark.parametrize('mode', ['wgan-gp', 'hinge'])
def test_a_few_steps_separate_two_sets(mode):
    student, teacher, _ = maps(4, 3, 16, 12)
    teacher = teacher.cumsum(2)  # smooth down the columns
    loss = built(3, mode=mode, conditional=False)
    optimizer = torch.optim.Adam(loss.parameters(), lr=2e-3)

    def gap():
        return (scores(loss, teacher, None)
                - scores(loss, student, None)).mean()

    start = gap()
    for _ in range(4):
        optimizer.zero_grad()
        loss.discriminator_loss(student, teacher).backward()
        optimizer.step()
    assert gap() > start + 0.1
    assert (scores(loss, teacher, None).min()
            > scores(loss, student, None).max())


@pytest.mark.parametrize('size', [(1, 1), (1, 7), (8, 8), (33, 65)])
@pytest.mark.parametrize('conditional', [True, False])
def test_any_size(size, conditional):
    student, teacher, image = maps(1, 4, *size)
    student.requires_grad_()
    loss = built(conditional=conditional)
    loss(student, teacher, image=image).backward()
    loss.discriminator_loss(student, teacher, image=image).backward()
    assert student.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in loss.parameters())


def test_conditional_depends_on_the_image():
    student, teacher, image = maps(2, 4, 8, 6)
    loss = built()
    assert loss(student, teacher, image=image) != loss(
        student, teacher, image=image.flip(3))
    loss = built(conditional=False)
    assert loss(student, teacher, image=image) == loss(student, teacher)


def test_conditional_needs_the_image():
    assert HolisticLoss().needs_image
    assert not HolisticLoss(conditional=False).needs_image
    student, teacher, image = maps(2, 4, 8, 6)
    loss = HolisticLoss()
    for call in (loss, loss.discriminator_loss):
        with pytest.raises(ValueError, match='image.*conditional=True'):
            call(student, teacher)
    with pytest.raises(ValueError, match=r'\(1, 3, 32, 24\).*\(2, 4, 8, 6'):
        loss(student, teacher, image=image[:1])


def test_created_at_the_first_call():
    student, teacher, image = maps(2, 4, 8, 6)
    for conditional, channels in ((True, 7), (False, 4)):
        loss = HolisticLoss(conditional=conditional)
        assert loss.discriminator is None and not loss.state_dict()
        loss(student, teacher, image=image)
        made = loss.discriminator
        assert made.norm.weight.shape[1] == channels
        loss.discriminator_loss(student, teacher, image=image)
        assert loss.discriminator is made


def test_state_dict_round_trip():
    student, teacher, image = maps(2, 4, 8, 6)
    loss = built()
    loss.discriminator_loss(student, teacher, image=image)
    expected = loss(student, teacher, image=image)
    other = HolisticLoss()
    build(other)
    assert other(student, teacher, image=image) != expected
    state = loss.state_dict()
    assert all(key.startswith('discriminator.') for key in state)
    other.load_state_dict(state, strict=True)
    assert torch.equal(other(student, teacher, image=image), expected)
    torch.manual_seed(1)
    expected = loss.discriminator_loss(student, teacher, image=image)
    torch.manual_seed(1)
    value = other.discriminator_loss(student, teacher, image=image)
    assert torch.equal(value, expected)


def test_mixes_by_the_global_generator():
    student, teacher, image = maps(2, 4, 8, 6)
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        loss = built()
        values.append(loss.discriminator_loss(student, teacher, image=image))
    assert values[0] == values[1] != values[2]


def test_penalty_of_weight_zero_draws_nothing():
    student, teacher, image = maps(2, 4, 8, 6)
    loss = built(gradient_penalty=0)
    before = torch.get_rng_state()
    value = loss.discriminator_loss(student, teacher, image=image)
    assert torch.equal(torch.get_rng_state(), before)
    expected = (scores(loss, student, image)
                - scores(loss, teacher, image)).mean()
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    student, teacher, image = (m.to(dtype) for m in maps(2, 4, 8, 6))
    student.requires_grad_()
    loss = built()
    expected = loss(student.float(), teacher.float(), image=image.float())
    assert expected.dtype == torch.float32
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value = loss(student, teacher, image=image)
        assert torch.equal(value, expected)
        assert loss.discriminator_loss(
            student, teacher, image=image).dtype == torch.float32
    value.backward()
    assert student.grad.dtype == dtype and student.grad.isfinite().all()


@pytest.mark.parametrize('mode', ['wgan-gp', 'hinge'])
def test_extreme_maps_stay_finite(mode):
    _, teacher, image = maps(2, 4, 8, 6)
    loss = built(mode=mode)
    for student in (1e4 * teacher, torch.full((2, 4, 8, 6), 1e4)):
        student.requires_grad_()
        loss(student, teacher, image=image).backward()
        loss.discriminator_loss(student, teacher, image=image).backward()
        assert student.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in loss.parameters())


def test_error_shows_both_shapes():
    loss = HolisticLoss(conditional=False)
    for call in (loss, loss.discriminator_loss):
        with pytest.raises(ValueError, match=r'\(1, 2, 3, 4\).*\(1, 2, 4, 3'):
            call(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 4, 3))
    with pytest.raises(TypeError, match='student.*int64'):
        loss(torch.zeros(1, 2, 3, 4).long(), torch.zeros(1, 2, 3, 4))


def test_optimizer_config():
    assert HolisticLoss().optimizer_cfg == dict(
        type='SGD', lr=4e-5, momentum=0.9, weight_decay=5e-3)
    config = dict(type='Adam', lr=1e-4)
    assert HolisticLoss(optimizer=config).optimizer_cfg == config


@pytest.mark.parametrize('name, value, allowed', [
    ('mode', 'wgan', "one of 'wgan-gp', 'hinge'"),
    ('conditional', 'yes', 'True or False'),
    ('gradient_penalty', -1, 'a finite number of 0 or more'),
    ('gradient_penalty', float('inf'), 'a finite number of 0 or more'),
])
def test_bad_arguments(name, value, allowed):
    with pytest.raises(ValueError) as error:
        HolisticLoss(**{name: value})
    assert f'{name} must be {allowed}' in str(error.value)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize('mode', ['hinge', 'wgan-gp'])
def test_module_equals_functions(mode):
    student, teacher, image = maps(2, 4, 8, 8)
    loss = built(mode=mode, gradient_penalty=3.0)
    assert torch.equal(
        loss(student, teacher, image=image),
        holistic_loss(student, teacher, discriminator=loss.discriminator,
                      image=image))
    twin = copy.deepcopy(loss)
    torch.manual_seed(1)
    first = loss.discriminator_loss(student, teacher, image=image)
    torch.manual_seed(1)
    second = holistic_discriminator_loss(
        student, teacher, discriminator=twin.discriminator, image=image,
        mode=mode, gradient_penalty=3.0)
    assert torch.equal(first, second)


def test_penalty_in_every_second_turn_at_twice_its_weight():
    student, teacher, image = maps(2, 4, 8, 6)
    expected = []
    for penalty in (20.0, 0.0, 20.0):
        loss = built(gradient_penalty=penalty)
        loss.discriminator.load_state_dict(
            expected[-1][1] if expected else loss.discriminator.state_dict())
        torch.manual_seed(1)
        value = loss.discriminator_loss(student, teacher, image=image)
        expected.append((value, loss.discriminator.state_dict()))
    loss = built(penalty_interval=2)
    for turn, (value, _) in enumerate(expected):
        if turn == 1:  # a resumed run goes on with the next turn
            state, loss = loss.state_dict(), built(penalty_interval=2)
            loss.load_state_dict(state, strict=True)
        torch.manual_seed(1)
        assert torch.equal(
            loss.discriminator_loss(student, teacher, image=image), value)
        loss.end_turn()
    assert 'turn' not in built().state_dict()  # nor in older checkpoints


def test_width():
    loss = HolisticLoss(width=4)
    build(loss)
    widths = [len(block.weight) for block in loss.discriminator.blocks
              if hasattr(block, 'weight')]
    assert widths == [4, 8, 16, 32]
    student, teacher, image = maps(2, 4, 8, 6)
    loss(student, teacher, image=image)
    loss.discriminator_loss(student, teacher, image=image).backward()


@pytest.mark.parametrize('options', [
    dict(penalty_interval=0), dict(penalty_interval=1.5), dict(width=1)])
def test_bad_price(options):
    name, = options
    with pytest.raises(ValueError, match=f'{name} must be an integer'):
        HolisticLoss(**options)
