"""MixTeacher: what it mixes, what it gives, and its own losses."""
from contextlib import ExitStack

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmselfkd import ConfigError, MixTeacher
from mmselfkd.registry import MODELS
from mmselfkd.taps import Tap
from mmselfkd.teachers import BatchContext
from mmselfkd.teachers.mix import SOURCES

VIEW = ('backbone', 'features', 'logits')


@pytest.fixture
def student(tiny):
    """In eval mode, so that a second pass can be repeated exactly."""
    model = MODELS.build(dict(tiny.model(4), _scope_='mmseg'))
    return model.eval()


def look(student, inputs, sources=VIEW):
    """The levels of a forward pass."""
    with ExitStack() as resources:
        taps = {s: Tap(student, s, 'key', resources) for s in sources}
        for tap in taps.values():
            tap.open()
        student(inputs, mode='tensor')
        return {s: tap.take() for s, tap in taps.items()}


def context_for(student, images=3, labels=None, **kwargs):
    """A batch; its ``calls`` are the inputs of further passes."""
    inputs = torch.rand(images, 3, 32, 32)
    if labels is None:
        labels = torch.randint(0, 7, (images, 1, 32, 32))
    samples = [SegDataSample() for _ in inputs]
    for sample, label in zip(samples, labels):
        sample.gt_sem_seg = PixelData(data=label.clone())
    calls = []

    def again(inputs, sources):
        calls.append(inputs)
        return look(student, inputs, sources)

    context = BatchContext(student, inputs, samples, look(student, inputs),
                           again, **kwargs)
    context.calls = calls
    return context


def fitted(student, context=None, alpha=5., **options):
    """With shares in the middle, so that a mix shows its two images."""
    teacher = MixTeacher(alpha=alpha, **options)
    for source in SOURCES:
        teacher.request(source, 'key', student)
    teacher.fit(context or context_for(student), ExitStack())
    teacher.module.eval()
    return teacher


def drawn(context):
    """The share and the partners, as the last mixed images show them."""
    share, order = [], []
    for image, mixed in zip(context.inputs, context.calls[-1]):
        found = []
        for number, other in enumerate(context.inputs):
            way = image - other
            one = ((mixed - other) * way).sum() / way.square().sum().clamp(
                min=1e-9)
            error = (mixed - other - one * way).norm()
            found.append((error.item(), number, one.item()))
        error, number, one = min(found)
        assert error < 1e-3
        order.append(number)
        share.append(one)
    assert share == pytest.approx([share[0]] * len(share), abs=1e-4)
    return share[0], order


def test_every_image_gets_another_one(student):
    teacher = fitted(student)
    for images in (2, 3, 8):
        for iteration in range(5):
            context = context_for(student, images, iteration=iteration)
            teacher.teach(context, None)
            share, order = drawn(context)
            assert 0 < share < 1
            assert sorted(order) == list(range(images))
            assert all(other != image for image, other in enumerate(order))


def test_shares_are_of_the_beta_distribution(student):
    """Of Beta(a, a): mean 1/2 and variance 1 / (8 a + 4)."""
    for alpha in (1., 20.):
        teacher = fitted(student, alpha=alpha)
        context = context_for(student, 2)
        shares = []
        for context.iteration in range(60):
            teacher.teach(context, None)
            shares.append(drawn(context)[0])
        shares, deviation = torch.tensor(shares), (8 * alpha + 4)**-0.5
        assert shares.mean() == pytest.approx(0.5, abs=0.5 * deviation)
        assert shares.std() == pytest.approx(deviation, rel=0.3)


def test_draws_follow_from_seed_and_iteration(student):
    teacher = fitted(student)

    def draw(seed, iteration):
        context = context_for(student, 4, seed=seed, iteration=iteration)
        state = torch.get_rng_state()
        teacher.teach(context, None)
        assert torch.equal(state, torch.get_rng_state())
        share, order = drawn(context)
        return round(share, 3), tuple(order)

    assert draw(0, 5) == draw(0, 5)
    assert len({draw(s, i) for s in range(3) for i in range(3)}) == 9


def test_maps_by_hand(student):
    context = context_for(student, iteration=7)
    teacher = fitted(student, context)
    levels = teacher.teach(context, None).levels
    assert set(levels) == set(SOURCES)
    share, order = drawn(context)
    mixed = share * context.inputs + (1 - share) * context.inputs[order]
    torch.testing.assert_close(context.calls[0], mixed)
    seen = dict(plain=context.levels, mixed=look(student, context.calls[0]))
    net = teacher.module
    aligned = {}
    for name, maps in seen.items():
        size = maps['features'][0].shape[2:]
        branches = [
            F.interpolate(net.branches[i](maps['backbone'][i]), size=size,
                          mode='bilinear') for i in range(3)]
        scores = [net.classifiers[i](branches[i]) for i in range(3)]
        aligned[name] = dict(features=branches + maps['features'],
                             branches=scores, logits=maps['logits'])
    for kind, count in dict(features=4, branches=3, logits=1).items():
        assert len(levels[f'mixed.{kind}']) == count
        for i in range(count):
            plain = aligned['plain'][kind][i]
            torch.testing.assert_close(
                levels[f'interpolated.{kind}'][i],
                share * plain + (1 - share) * plain[order])
            torch.testing.assert_close(levels[f'mixed.{kind}'][i],
                                       aligned['mixed'][kind][i])
    for name in ('interpolated', 'mixed'):
        features = torch.cat(levels[f'{name}.features'], 1)
        torch.testing.assert_close(
            levels[f'{name}.aggregated'][0],
            net.classifier(net.aggregate(features)))


def test_stages_by_their_names(student):
    """As many sources as the user names, in the order of the stages."""
    context = context_for(student)
    names = ['backbone[1]', 'backbone[3]']
    context.levels.update(look(student, context.inputs, names))
    teacher = fitted(student, context, source=names)
    levels = teacher.teach(context, None).levels
    assert len(levels['mixed.features']) == 2
    assert len(levels['mixed.branches']) == 1
    assert teacher.module.branches[0].conv.in_channels == context.levels[
        'backbone[1]'][0].shape[1]


def cross_entropy(logits, label, valid):
    """Mean over the valid pixels, pixel by pixel."""
    logits = F.interpolate(logits, size=label.shape[1:], mode='bilinear')
    total, count = 0., 0
    for n in range(len(label)):
        for y in range(label.shape[1]):
            for x in range(label.shape[2]):
                if valid[n, y, x]:
                    total -= logits[n, :, y, x].log_softmax(0)[label[n, y, x]]
                    count += 1
    return total / count


@pytest.mark.parametrize('iteration, ignored', [(0, 255), (1, 255), (1, 3)])
def test_own_losses_by_naive_loops(student, iteration, ignored):
    """Two images of other classes, and a share that lets both count."""
    student.decode_head.conv_seg.weight.data.normal_()
    student.decode_head.ignore_index = ignored
    labels = torch.stack([torch.randint(0, 2, (1, 32, 32)),
                          torch.randint(4, 7, (1, 32, 32))])
    labels[0, :, :8] = ignored
    labels[1, :, :, :4] = ignored
    context = context_for(student, 2, labels, iteration=iteration)
    teacher = fitted(student, context)
    for layer in *teacher.module.classifiers, teacher.module.classifier:
        layer.weight.data.normal_()
    output = teacher.teach(context, None)
    share, order = drawn(context)
    assert 0.2 < share < 0.8
    first = labels[:, 0]
    second = first[order]
    valid = (first != ignored) & (second != ignored)
    assert torch.equal(output.label, first.masked_fill(~valid, ignored))

    def mixed(logits):
        return share * cross_entropy(logits, first, valid) + (
            1 - share) * cross_entropy(logits, second, valid)

    levels = output.levels
    _, branches = teacher.module(
        context.levels['backbone'][:-1], context.levels['features'][0])
    expected = dict(
        loss_branches=sum(cross_entropy(x, first, first != ignored)
                          for x in branches),
        loss_mixed=sum(map(mixed, levels['mixed.branches'] +
                           levels['mixed.logits'])),
        loss_aggregated=mixed(levels['mixed.aggregated'][0]) + mixed(
            levels['interpolated.aggregated'][0]))
    assert output.losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(output.losses[name], value,
                                   rtol=1e-4, atol=1e-5)


def test_every_parameter_learns(student):
    context = context_for(student)
    teacher = fitted(student, context)
    sum(teacher.teach(context, None).losses.values()).backward()
    for name, p in teacher.module.named_parameters():
        assert p.grad is not None, name


def test_all_ignored_is_zero_and_finite(student):
    context = context_for(student, 2, torch.full((2, 1, 32, 32), 255))
    teacher = fitted(student, context)
    output = teacher.teach(context, None)
    assert (output.label == 255).all()
    assert all(value == 0 for value in output.losses.values())
    sum(output.losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in student.parameters()
               if p.grad is not None)


def test_labels_of_the_batch_stay_as_they_are(student):
    labels = torch.randint(0, 7, (2, 1, 32, 32))
    labels[0, :, :8] = 255
    context = context_for(student, 2, labels)
    fitted(student, context).teach(context, None)
    for sample, label in zip(context.samples, labels):
        assert torch.equal(sample.gt_sem_seg.data, label)


def test_a_single_image_is_mixed_with_itself(student):
    """The last batch of an epoch may be one image short of a pair."""
    context = context_for(student, 1)
    teacher = fitted(student)
    levels = teacher.teach(context, None).levels
    torch.testing.assert_close(context.calls[0], context.inputs)
    torch.testing.assert_close(levels['interpolated.logits'],
                               levels['mixed.logits'])


def test_errors(student):
    with pytest.raises(ConfigError, match='train_dataloader.batch_size = 1'):
        fitted(student, context_for(student, batch_size=1))
    context = context_for(student)
    context.levels['backbone'] = context.levels['backbone'][-1:]
    with pytest.raises(ConfigError, match="source = 'backbone'.*one level"):
        fitted(student, context)
    for alpha in (0, -1, float('nan'), float('inf'), '1'):
        with pytest.raises(ConfigError, match='MixSKDHook.teacher.alpha'):
            MixTeacher(alpha=alpha, key='MixSKDHook.teacher')
    with pytest.raises(ConfigError, match="'mixed.feature'.*mixed.features"):
        MixTeacher().request('mixed.feature', 'key', None)
