"""MixTeacher: what it mixes, what it gives, and its own losses."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmselfkd import ConfigError, MixTeacher
from mmselfkd.registry import MODELS
from mmselfkd.taps import Tap
from mmselfkd.teachers.mix import SOURCES
from mmselfkd.teachers.teacher import Step

VIEW = ('backbone', 'features', 'logits')


@pytest.fixture
def student(tiny):
    """In eval mode, so that a second pass can be repeated exactly."""
    model = MODELS.build(dict(tiny.model(4), _scope_='mmseg'))
    return model.eval()


def look(student, inputs, sources=VIEW):
    taps = {s: Tap(student, s, 'key') for s in sources}
    for tap in taps.values():
        tap.open()
    student(inputs, mode='tensor')
    seen = {s: tap.take() for s, tap in taps.items()}
    for tap in taps.values():
        tap.remove()
    return seen


def step_for(student, images=3, labels=None, iteration=0, seed=0, **kwargs):
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

    step = Step(student, inputs, samples, look(student, inputs), again,
                iteration, seed, **kwargs)
    step.calls = calls
    return step


def fitted(student, step=None, **options):
    teacher = MixTeacher(**options)
    for source in SOURCES:
        teacher.request(source, 'key', student)
    teacher.fit(step or step_for(student))
    teacher.module.eval()
    return teacher


def draw(step, alpha=0.2):
    """The share and the partners, by the documented recipe."""
    rng = np.random.default_rng([step.seed, 0, step.iteration])
    share, cycle = rng.beta(alpha, alpha), rng.permutation(len(step.inputs))
    order = np.empty_like(cycle)
    for i, image in enumerate(cycle):
        order[image] = cycle[i - 1]
    return share, order


def test_every_image_gets_another_one():
    teacher = MixTeacher()
    for images in (2, 3, 8):
        for iteration in range(20):
            step = Step(None, torch.rand(images, 1), None, {}, None,
                        iteration)
            share, order = teacher._draw(step)
            assert 0 <= share <= 1
            assert sorted(order.tolist()) == list(range(images))
            assert (order != torch.arange(images)).all()


def test_draws_follow_from_seed_and_iteration():
    def drawn(seed, iteration):
        return MixTeacher()._draw(Step(
            None, torch.zeros(4, 1), None, {}, None, iteration, seed))[0]

    state = torch.get_rng_state()
    assert drawn(0, 5) == drawn(0, 5)
    assert len({drawn(s, i) for s in range(3) for i in range(3)}) == 9
    assert torch.equal(state, torch.get_rng_state())


def test_maps_by_hand(student):
    step = step_for(student, iteration=7)
    teacher = fitted(student, step)
    levels = teacher.teach(step, None).levels
    assert set(levels) == set(SOURCES)
    share, order = draw(step)
    mixed = share * step.inputs + (1 - share) * step.inputs[order]
    torch.testing.assert_close(step.calls[0], mixed)
    seen = dict(plain=step.seen, mixed=look(student, mixed))
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


def test_own_losses_by_naive_loops(student):
    labels = torch.randint(0, 7, (2, 1, 32, 32))
    labels[0, :, :8] = 255
    labels[1, :, :, :4] = 255
    step = step_for(student, 2, labels)
    teacher = fitted(student, step)
    lesson = teacher.teach(step, None)
    share, order = draw(step)
    first = labels[:, 0]
    second = first[order]
    valid = (first != 255) & (second != 255)
    assert torch.equal(lesson.label, first.masked_fill(~valid, 255))

    def mixed(logits):
        return share * cross_entropy(logits, first, valid) + (
            1 - share) * cross_entropy(logits, second, valid)

    levels = lesson.levels
    branches = teacher._view(step.seen)['branches']
    expected = dict(
        loss_branches=sum(cross_entropy(x, first, first != 255)
                          for x in branches),
        loss_mixed=sum(map(mixed, levels['mixed.branches'] +
                           levels['mixed.logits'])),
        loss_aggregated=mixed(levels['mixed.aggregated'][0]) + mixed(
            levels['interpolated.aggregated'][0]))
    assert lesson.losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(lesson.losses[name], value,
                                   rtol=1e-4, atol=1e-5)


def test_every_parameter_learns(student):
    step = step_for(student)
    teacher = fitted(student, step)
    sum(teacher.teach(step, None).losses.values()).backward()
    for name, p in teacher.module.named_parameters():
        assert p.grad is not None, name


def test_all_ignored_is_zero_and_finite(student):
    step = step_for(student, 2, torch.full((2, 1, 32, 32), 255))
    teacher = fitted(student, step)
    lesson = teacher.teach(step, None)
    assert (lesson.label == 255).all()
    assert all(value == 0 for value in lesson.losses.values())
    sum(lesson.losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in student.parameters()
               if p.grad is not None)


def test_labels_of_the_batch_stay_as_they_are(student):
    labels = torch.randint(0, 7, (2, 1, 32, 32))
    labels[0, :, :8] = 255
    step = step_for(student, 2, labels)
    fitted(student, step).teach(step, None)
    for sample, label in zip(step.samples, labels):
        assert torch.equal(sample.gt_sem_seg.data, label)


def test_a_single_image_is_mixed_with_itself(student):
    """The last batch of an epoch may be one image short of a pair."""
    step = step_for(student, 1)
    teacher = fitted(student)
    levels = teacher.teach(step, None).levels
    torch.testing.assert_close(step.calls[0], step.inputs)
    torch.testing.assert_close(levels['interpolated.logits'],
                               levels['mixed.logits'])


def test_errors(student):
    with pytest.raises(ConfigError, match='train_dataloader.batch_size = 1'):
        fitted(student, step_for(student, batch_size=1))
    step = step_for(student)
    step.seen['backbone'] = step.seen['backbone'][-1:]
    with pytest.raises(ConfigError, match="source = 'backbone'.*one level"):
        fitted(student, step)
    for alpha in (0, -1, float('nan'), float('inf'), '1'):
        with pytest.raises(ConfigError, match='MixSKDHook.teacher.alpha'):
            MixTeacher(alpha=alpha, key='MixSKDHook.teacher')
    with pytest.raises(ConfigError, match="'mixed.feature'.*mixed.features"):
        MixTeacher().request('mixed.feature', 'key', None)
