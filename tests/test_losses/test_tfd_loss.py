import math

import pytest
import torch

from mmselfkd.losses.tfd_loss import (
    TFDInterLoss,
    TFDIntraLoss,
    tfd_inter_loss,
    tfd_intra_loss,
)

every_function = pytest.mark.parametrize('function',
                                         [tfd_inter_loss, tfd_intra_loss])


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def naive_inter(shallow, deep):
    """The equation by loops; a window is every pixel that it touches."""
    batch, channels_a, height_a, width_a = shallow.shape
    _, channels_b, height_b, width_b = deep.shape

    def window(i, size_in, size_out):
        # pixel k covers [k, k + 1), window i [i, i + 1) * size_in / size_out
        return [k for k in range(size_in) if (k + 1) * size_out > i * size_in
                and k * size_out < (i + 1) * size_in]

    terms = []
    for n in range(batch):
        for c in range(min(channels_a, channels_b)):
            for y in range(height_b):
                for x in range(width_b):
                    values = [shallow[n, c, v, u].item()
                              for v in window(y, height_a, height_b)
                              for u in window(x, width_a, width_b)]
                    mean = sum(values) / len(values)
                    terms.append((mean - deep[n, c, y, x].item())**2)
    return sum(terms) / len(terms)


def naive_order(features):
    """The channels from the most salient to the least."""
    batch, channels, height, width = features.shape
    scores = []
    for c in range(channels):
        score = 0.0
        for n in range(batch):
            values = [features[n, c, y, x].item()
                      for y in range(height) for x in range(width)]
            norm = math.sqrt(sum(v**2 for v in values))
            score += sum(v / max(norm, 1e-12) for v in values)
        scores.append(score / (batch * height * width))
    return sorted(range(channels), key=lambda c: -scores[c])


def naive_intra(student, teacher):
    """The equation by loops over all elements."""
    batch, channels, height, width = student.shape
    order = naive_order(teacher)
    terms = [(student[n, order[channels // 2 + k], y, x].item()
              - teacher[n, order[k], y, x].item())**2
             for n in range(batch) for k in range(channels // 2)
             for y in range(height) for x in range(width)]
    return sum(terms) / max(len(terms), 1)


def test_hand_value_inter():
    # means of 2 x 2: 2.5 and 6.5; the third channel of the deep map is cut
    shallow = torch.tensor([[1., 2., 5., 6.], [3., 4., 7., 8.]])
    shallow = torch.stack([shallow, torch.zeros(2, 4)])[None]
    deep = torch.tensor([[1.5, 6.5], [0., 2.], [9., 9.]]).view(1, 3, 1, 2)
    torch.testing.assert_close(
        tfd_inter_loss(shallow, deep), torch.tensor(5 / 4))
    # a deeper map of one channel: the second of the shallow one is cut
    torch.testing.assert_close(
        tfd_inter_loss(shallow, deep[:, :1]), torch.tensor(1 / 2))


def test_hand_value_intra():
    # saliency: (6, 0): 1/2; (1, 1): 1/sqrt(2); (-2, 0): -1/2;
    # (3, 4): 7/10; order (1, 1), (3, 4), (6, 0), (-2, 0)
    features = torch.tensor([[6., 0.], [1., 1.], [-2., 0.], [3., 4.]])
    features = features.view(1, 4, 1, 2)
    # (6, 0) - (1, 1) and (-2, 0) - (3, 4)
    expected = torch.tensor((25 + 1 + 25 + 16) / 4)
    torch.testing.assert_close(tfd_intra_loss(features, features), expected)


@pytest.mark.parametrize('shallow, deep', [
    ((2, 3, 8, 12), (2, 6, 4, 6)), ((1, 3, 8, 12), (1, 6, 2, 6)),
    ((2, 5, 7, 5), (2, 3, 3, 4)), ((1, 1, 4, 6), (1, 1, 4, 6)),
    ((2, 2, 3, 4), (2, 4, 6, 12)), ((2, 2, 3, 8), (2, 4, 5, 2)),
    ((3, 2, 3, 5), (3, 1, 1, 1))])
def test_equation_inter(shallow, deep):
    shallow, deep = random(*shallow), 2 + random(*deep, seed=1)
    expected = naive_inter(shallow, deep)
    value = tfd_inter_loss(shallow, deep)
    assert value.item() == pytest.approx(expected, rel=1e-9)
    single = tfd_inter_loss(shallow.float(), deep.float())
    assert single.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('shape', [(1, 2, 4, 5), (2, 6, 3, 2), (3, 5, 2, 4),
                                   (2, 8, 1, 3), (1, 1, 2, 3), (2, 3, 1, 1)])
def test_equation_intra(shape):
    features, other = random(*shape), random(*shape, seed=1)
    for student, teacher in ((features, features), (features, other)):
        expected = naive_intra(student, teacher)
        value = tfd_intra_loss(student, teacher)
        assert value.item() == pytest.approx(expected, rel=1e-9)
        single = tfd_intra_loss(student.float(), teacher.float())
        assert single.item() == pytest.approx(expected, rel=1e-5)


def test_zero_at_equality_inter():
    shallow, deep = random(2, 3, 8, 6), random(2, 5, 4, 3, seed=1)
    pooled = torch.nn.functional.avg_pool2d(shallow, 2)
    same = torch.cat([pooled, deep], dim=1)
    assert tfd_inter_loss(shallow, same).item() == pytest.approx(0, abs=1e-24)
    assert tfd_inter_loss(same, same).item() == 0
    assert tfd_inter_loss(shallow, deep) > 1e-3


def test_zero_where_all_channels_are_equal_intra():
    features = random(2, 1, 3, 4).expand(2, 6, 3, 4)
    assert tfd_intra_loss(features, features).item() == 0
    assert tfd_intra_loss(random(2, 6, 3, 4), features) > 1e-3


def test_does_not_depend_on_the_size_of_the_maps():
    shallow, deep = random(2, 4, 8, 6), random(2, 6, 4, 3, seed=1)
    tiled = shallow.repeat(1, 1, 2, 3)
    torch.testing.assert_close(
        tfd_inter_loss(tiled, deep.repeat(1, 1, 2, 3)),
        tfd_inter_loss(shallow, deep))
    enlarged = shallow.repeat_interleave(2, 2).repeat_interleave(3, 3)
    for big in (tiled, enlarged):
        torch.testing.assert_close(
            tfd_intra_loss(big, big), tfd_intra_loss(shallow, shallow))


def test_does_not_depend_on_the_batch_size():
    shallow, deep = random(2, 4, 8, 6), random(2, 6, 4, 3, seed=1)
    torch.testing.assert_close(
        tfd_inter_loss(shallow.repeat(3, 1, 1, 1), deep.repeat(3, 1, 1, 1)),
        tfd_inter_loss(shallow, deep))
    torch.testing.assert_close(
        tfd_intra_loss(*[shallow.repeat(3, 1, 1, 1)] * 2),
        tfd_intra_loss(shallow, shallow))


def test_scale_of_a_channel_does_not_change_its_rank():
    teacher, student = random(2, 6, 3, 4), random(2, 6, 3, 4, seed=1)
    order = naive_order(teacher)
    factors = torch.ones(6).double()
    factors[order[3:]] = 100.  # they only rank, their values play no part
    torch.testing.assert_close(
        tfd_intra_loss(student, teacher * factors.view(1, 6, 1, 1)),
        tfd_intra_loss(student, teacher))


def test_one_order_for_the_batch():
    # image 0 ranks channel 0 first by 1/sqrt(2) : 1/2, image 1 ranks
    # channel 1 first by 1/2 : -1/2; the sum ranks channel 1 first
    features = torch.tensor([[[3., 3.], [5., 0.]], [[-1., 0.], [2., 0.]]])
    features = features.view(2, 2, 1, 2)
    # channel 1 teaches channel 0 in both images
    expected = torch.tensor((4 + 9 + 9 + 0) / 4)
    torch.testing.assert_close(tfd_intra_loss(features, features), expected)


def test_saliency_of_a_channel_without_activation_is_zero():
    # 0 : 1/sqrt(2) : 7/10 : -1/2; order (3, 3), (4, 3), (0, 0), (-1, 0)
    features = torch.tensor([[0., 0.], [3., 3.], [4., 3.], [-1., 0.]])
    features = features.view(1, 4, 1, 2)
    expected = torch.tensor((9 + 9 + 25 + 9) / 4)
    torch.testing.assert_close(tfd_intra_loss(features, features), expected)


@pytest.mark.parametrize('channels', [4, 5, 40])
def test_equal_saliency_keeps_the_order_of_the_channels(channels):
    student = random(2, channels, 3, 4)
    half = channels // 2
    for teacher in (torch.zeros_like(student), torch.ones_like(student)):
        torch.testing.assert_close(
            tfd_intra_loss(student, teacher),
            (student[:, half:2 * half] - teacher[:, :half]).square().mean())


@pytest.mark.parametrize('channels', [2, 3, 6, 7])
def test_only_the_redundant_half_learns(channels):
    features = random(2, channels, 3, 4).requires_grad_()
    tfd_intra_loss(features, features).backward()
    order = naive_order(features)
    half = channels // 2
    learns = features.grad.abs().sum((0, 2, 3)) > 0
    assert learns[order[half:2 * half]].all()
    assert not learns[order[:half]].any()
    # an odd number of channels: the least salient takes no part
    assert not learns[order[2 * half:]].any()


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
@pytest.mark.parametrize('scale', [1., 6e4])
def test_single_channel_is_exactly_zero(dtype, scale):
    features = (scale * random(2, 1, 3, 4).clamp(-1, 1)).to(dtype)
    features.requires_grad_()
    value = tfd_intra_loss(features, features)
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == 0
    assert (features.grad == 0).all()


def test_channels_cut_off_do_not_learn():
    shallow = random(2, 5, 6, 4).requires_grad_()
    tfd_inter_loss(shallow, random(2, 3, 3, 2, seed=1)).backward()
    assert (shallow.grad[:, :3] != 0).all()
    assert (shallow.grad[:, 3:] == 0).all()


@pytest.mark.parametrize('shallow, deep', [
    ((2, 2, 4, 6), (2, 3, 2, 3)), ((1, 3, 5, 3), (1, 2, 2, 2)),
    ((1, 1, 2, 3), (1, 1, 4, 5))])
def test_gradient_is_the_derivative_inter(shallow, deep):
    shallow, deep = random(*shallow).requires_grad_(), random(*deep, seed=1)
    assert torch.autograd.gradcheck(
        lambda s: tfd_inter_loss(s, deep), shallow)


@pytest.mark.parametrize('shape', [(2, 4, 2, 3), (1, 5, 3, 2), (1, 1, 2, 2)])
def test_gradient_is_the_derivative_intra(shape):
    student, teacher = random(*shape).requires_grad_(), random(*shape, seed=1)
    assert torch.autograd.gradcheck(
        lambda s: tfd_intra_loss(s, teacher), student)


@every_function
def test_no_gradient_for_the_teacher(function):
    student = random(2, 4, 6, 4).requires_grad_()
    teacher = random(2, 4, 6, 4, seed=1).requires_grad_()
    function(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@every_function
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(function, dtype):
    student = random(2, 4, 6, 4).to(dtype).requires_grad_()
    teacher = random(2, 4, 6, 4, seed=1).to(dtype)
    if function is tfd_inter_loss:
        teacher = teacher[:, :, :2, :3]
    value = function(student, teacher)
    assert value.dtype == torch.float32
    assert torch.equal(value, function(student.float(), teacher.float()))
    value.backward()
    assert student.grad.dtype == dtype
    assert student.grad.isfinite().all()


@every_function
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast_changes_nothing(function, dtype):
    student = random(2, 4, 6, 4).float()
    teacher = random(2, 4, 6, 4, seed=1).float()
    expected = function(student, teacher)
    with torch.autocast('cpu', dtype=dtype):
        value = function(student, teacher)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)


@every_function
@pytest.mark.parametrize('dtype',
                         [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_maps_stay_finite(function, dtype):
    normal, zero = random(2, 4, 6, 4), torch.zeros(2, 4, 6, 4)
    large = normal.clamp(-1, 1) * 6e4
    half_zero = normal * torch.tensor([1, 0, 1, 0]).view(4, 1, 1)
    cases = [(zero, zero), (zero, large), (large, zero), (large, large),
             (large, -large), (normal * 1e-6, large), (half_zero, half_zero)]
    for student, teacher in cases:
        student = student.to(dtype).requires_grad_()
        value = function(student, teacher.to(dtype))
        value.backward()
        assert value.isfinite() and value >= 0
        assert student.grad.isfinite().all()


@pytest.mark.parametrize('function, student, teacher', [
    (tfd_inter_loss, (2, 4, 6, 5), (1, 4, 6, 5)),
    (tfd_inter_loss, (4, 6, 5), (4, 6, 5)),
    (tfd_inter_loss, (2, 4, 6, 5), (2, 4, 30)),
    (tfd_inter_loss, (2, 4, 6, 5), (2, 4, 0, 5)),
    (tfd_intra_loss, (2, 4, 6, 5), (2, 4, 5, 6)),
    (tfd_intra_loss, (2, 4, 6, 5), (2, 3, 6, 5)),
    (tfd_intra_loss, (2, 4, 6, 5), (1, 4, 6, 5)),
    (tfd_intra_loss, (4, 6, 5), (4, 6, 5)),
])
def test_error_shows_both_shapes(function, student, teacher):
    with pytest.raises(ValueError) as error:
        function(torch.zeros(student), torch.zeros(teacher))
    assert 'maps must' in str(error.value)
    assert f'student {student}' in str(error.value)
    assert f'teacher {teacher}' in str(error.value)


@every_function
def test_integer_maps_are_refused(function):
    features = torch.ones(1, 2, 3, 3)
    with pytest.raises(TypeError, match='student.*int64'):
        function(features.long(), features)
    with pytest.raises(TypeError, match='teacher.*int64'):
        function(features, features.long())


def test_pairs_are_all_levels_with_all_deeper_ones():
    sizes = [(4, 8, 12), (6, 4, 6), (8, 2, 3), (8, 1, 2)]
    student = [random(1, *size) for size in sizes]
    teacher = [random(1, *size, seed=1) for size in sizes]
    pairs = TFDInterLoss().pair_levels(student, teacher)
    expected = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert len(pairs) == len(expected)
    for (shallow, deep), (a, b) in zip(pairs, expected):
        assert shallow is student[a] and deep is teacher[b]
        assert TFDInterLoss()(shallow, deep).isfinite()
    assert len(TFDInterLoss().pair_levels(student[:2], teacher[:2])) == 1


@pytest.mark.parametrize('count', [0, 1])
def test_pairs_need_two_levels(count):
    levels = [torch.zeros(1, 4, 6, 5)] * count
    with pytest.raises(ValueError) as error:
        TFDInterLoss().pair_levels(levels, levels)
    assert ('a deeper level teaches a shallower one: two levels or more are '
            'needed, but got ') in str(error.value)
    assert str(error.value).count('(1, 4, 6, 5)') == 2 * count


def test_module_equals_function():
    shallow, deep = random(2, 4, 8, 6), random(2, 6, 4, 3, seed=1)
    assert torch.equal(TFDInterLoss()(shallow, deep),
                       tfd_inter_loss(shallow, deep))
    assert torch.equal(TFDIntraLoss()(shallow, shallow),
                       tfd_intra_loss(shallow, shallow))


def test_padding_does_not_choose_the_salient_channels():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(
        2, 2, 4, 4, 4, generator=generator, dtype=torch.float64)
    expected = tfd_intra_loss(student, teacher)
    weight = torch.nn.functional.pad(torch.ones(2, 1, 4, 4), (0, 4, 0, 4))
    for bright in range(4):
        padded = [torch.nn.functional.pad(x, (0, 4, 0, 4))
                  for x in (student, teacher)]
        padded[1][:, bright, 4:] = 50
        torch.testing.assert_close(
            tfd_intra_loss(*padded, weight=weight), expected)
