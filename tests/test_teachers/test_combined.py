"""CombinedTeacher: what several teachers say together, and refusals."""
import math
from contextlib import ExitStack

import pytest
import torch
from helpers import KD, NO_DROPOUT, assert_equal, keep_order, load
from helpers import train as train_config
from torch import nn

from mmselfkd import ConfigError, ModelTeacher
from mmselfkd.hosts import register_head, temporary_registrations
from mmselfkd.teachers import BatchContext, CombinedTeacher, TeacherOutput
from mmselfkd.teachers.combined import combine_scores


def probabilities(row, activation):
    """Of one anchor at one position, as a plain list."""
    if activation == 'sigmoid':
        return [1 / (1 + math.exp(-z)) for z in row]
    total = sum(map(math.exp, row))
    return [math.exp(z) / total for z in row]


def expected(rows, by, activation):
    """The probabilities that several teachers give together."""
    each = [probabilities(row, activation) for row in rows]
    if by == 'mean':
        return [sum(column) / len(each) for column in zip(*each)]
    if by == 'confidence':
        best = 0
        for i, row in enumerate(each):
            if max(row) > max(each[best]):
                best = i
        return each[best]
    highest = [max(column) for column in zip(*each)]
    total = 1 if activation == 'sigmoid' else sum(highest)
    return [value / total for value in highest]


@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('by', ['mean', 'confidence', 'class'])
def test_scores_against_plain_loops(by, activation):
    anchors, classes = 2, 3
    scores = [3 * torch.randn(2, anchors * classes, 2, 3).double()
              for _ in range(3)]
    found = combine_scores(scores, by, activation, anchors)
    assert found.shape == scores[0].shape
    if activation == 'softmax':  # logarithms, as they are
        for anchor in found.chunk(anchors, 1):
            torch.testing.assert_close(
                anchor.exp().sum(1), torch.ones(2, 2, 3).double())
    for n in range(2):
        for a in range(anchors):
            part = slice(a * classes, (a + 1) * classes)
            for y in range(2):
                for x in range(3):
                    rows = [s[n, part, y, x].tolist() for s in scores]
                    assert probabilities(
                        found[n, part, y, x].tolist(), activation
                    ) == pytest.approx(expected(rows, by, activation))


@pytest.mark.parametrize('by', ['mean', 'confidence', 'class'])
def test_equal_teachers_say_what_each_says(by):
    z = 5 * torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(
        combine_scores([z, z], by, 'softmax'), z.log_softmax(1))
    torch.testing.assert_close(combine_scores([z, z], by, 'sigmoid'), z,
                               atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('by', ['mean', 'confidence', 'class'])
def test_sure_teachers_in_half_precision_stay_finite(by):
    z = torch.tensor([[9e3, -9e3, 0.]]).half()[..., None, None]
    for activation in 'softmax', 'sigmoid':
        found = combine_scores([z, z.flip(1)], by, activation)
        assert found.dtype == torch.float32 and found.isfinite().all()


class Net(nn.Module):
    """A teacher in plain torch, whose class scores are known."""

    def __init__(self, width=5, classes=3, stride=2):
        super().__init__()
        self.body = nn.Conv2d(3, width, 3, stride, 1)
        self.scores = nn.Conv2d(width, classes, 1)

    def forward(self, x):
        return self.scores(self.body(x).tanh())


class SigmoidNet(Net):
    pass


@pytest.fixture(autouse=True)
def known_heads():
    with temporary_registrations():
        register_head('Net', classes='scores', activation='softmax')
        register_head('SigmoidNet', classes='scores', activation='sigmoid')
        yield


def plain(net):
    return dict(type=ModelTeacher, model=net)


def context():
    return BatchContext(nn.Module(), torch.rand(2, 3, 8, 8), None)


def rehearsed(sources, *nets, by='mean'):
    """A teacher of these, its first output, and what it saw."""
    names = dict(zip('abc', map(plain, nets)))
    teacher = CombinedTeacher(names, by, key='DistillHook.teacher')
    for source in sources:
        teacher.request(source, 'DistillHook.losses.loss_x.source',
                        nn.Module())
    seen = context()
    teacher.fit(seen, ExitStack())
    return teacher, teacher.rehearse(seen), seen


def test_levels_of_all_teachers_at_the_size_of_the_first():
    coarse, fine = Net(stride=4), Net(stride=2)
    teacher, output, seen = rehearsed(['scores', 'body'], coarse, fine)
    with torch.no_grad():
        for name, run in (('scores', lambda n: n(seen.inputs)),
                          ('body', lambda n: n.body(seen.inputs))):
            first, second = run(coarse), run(fine)
            second = nn.functional.interpolate(
                second, (2, 2), mode='bilinear', align_corners=False)
            wanted = (first + second) / 2 if name == 'body' else (
                (first.softmax(1) + second.softmax(1)) / 2).log()
            torch.testing.assert_close(output.levels[name], [wanted])
    again = teacher.teach(seen, ['scores']).levels
    assert_equal(again, dict(scores=output.levels['scores']))
    assert teacher.place('scores').reading.activation == 'softmax'
    assert 'a: Net' in teacher.describe() and 'b: Net' in teacher.describe()


def test_one_teacher_alone():
    a, b = Net(), Net(width=9)
    _, output, seen = rehearsed(['scores', 'b.body'], a, b, by='confidence')
    assert torch.equal(output.levels['b.body'][0], b.body(seen.inputs))


def test_only_the_teachers_that_are_asked_run():
    a, b = Net(), Net()
    teacher, _, seen = rehearsed(['scores', 'b.body'], a, b)
    ran = []
    for net in a, b:
        net.body.register_forward_pre_hook(lambda m, _: ran.append(m))
    teacher.teach(seen, ['b.body'])
    assert ran == [b.body]


def test_what_follows_the_student_starts_with_it():
    average = dict(type='EMATeacher')
    teacher = CombinedTeacher(dict(a=plain(Net()), b=average))
    teacher.request('scores', 'key', nn.Module())
    teacher.fit(BatchContext(Net(), torch.rand(1, 3, 8, 8), None),
                ExitStack())
    assert not teacher.is_ready
    teacher.start(Net())
    assert teacher.is_ready


def test_every_side_stream_is_waited_for(monkeypatch):
    teacher, _, seen = rehearsed(['scores'], Net(), Net())
    joined = []
    for name, member in teacher.members.items():
        level = torch.rand(2, 3, 4, 4)
        monkeypatch.setattr(member, 'teach', lambda *_, n=name, x=level: (
            TeacherOutput({'scores': [x]}, join=lambda: joined.append(n))))
    teacher.teach(seen, None)
    assert joined == ['a', 'b']


@pytest.mark.parametrize('sources, nets, by, says', [
    (['body'], [Net(), Net(width=6)], 'mean',
     ["loss_x.source = 'body'", "'a' and 'b'", '[5] and [6]']),
    (['scores'], [Net(), Net(classes=4)], 'mean',
     ["'a' and 'b'", 'size 3', 'size 4']),
    (['scores'], [Net(), Net(), SigmoidNet()], 'mean',
     ["'a' and 'c'", 'softmax', 'sigmoid']),
    (['body'], [Net(), Net()], 'confidence',
     ["teacher.by = 'confidence'", "'body'", "by='mean'", "'a.body'"]),
    (['a.body'], [Net(), Net()], 'mean',
     ['teacher.teachers.b', 'no loss looks at this teacher']),
])
def test_what_cannot_be_combined(sources, nets, by, says):
    with pytest.raises(ConfigError) as error:
        rehearsed(sources, *nets, by=by)
    for part in says:
        assert part in str(error.value)


def test_other_classes_are_named():
    teacher = CombinedTeacher(dict(a=plain(Net()), b=plain(Net())))
    for member, classes in zip(teacher.members.values(), ('xyz', 'xzy')):
        member.classes = tuple(classes)
    teacher.request('scores', 'key', nn.Module())
    with pytest.raises(ConfigError, match="'a' and 'b' were trained on other"):
        teacher.fit(context(), ExitStack())


@pytest.mark.parametrize('changes, says', [
    (dict(by='vote'), "teacher.by must be one of 'mean'"),
    (dict(teachers=dict(a=dict(type='EMATeacher'))), 'two or more'),
    (dict(teachers=dict(a=3, b=4)), 'teacher.teachers.a = 3'),
    (dict(teachers=dict(a=dict(type='EMATeacher', begn=1),
                        b=dict(type='EMATeacher'))),
     'teacher.teachers.a.begn = 1'),
    (dict(teachers=dict(a=dict(type='SelfTeacher'),
                        b=dict(type='EMATeacher'))), 'trained along'),
])
def test_configs_that_cannot_work(tiny, tmp_path, changes, says):
    teacher = dict(dict(type='CombinedTeacher', teachers=dict(
        a=tiny.teacher(4), b=tiny.teacher(8))), **changes)
    with pytest.raises(ConfigError) as error:
        train_config(tiny.config(tmp_path, dict(
            type='mmselfkd.DistillHook', teacher=teacher,
            losses=dict(loss_kd=KD))))
    assert says in str(error.value)


def test_a_run(tiny, tmp_path, spy):
    """Any loss can use it; two networks, and features of one of them."""
    runner, logs = train_config(tiny.config(tmp_path, dict(
        type='mmselfkd.NFDHook',
        teacher=dict(
            type='CombinedTeacher', by='class',
            teachers=dict(big=tiny.teacher(8), small=tiny.teacher(6))),
        losses=dict(
            loss_nfd=dict(source=dict(
                student='features', teacher='big.features')),
            loss_kd=KD, loss_seen=dict(type='Spy', source='logits')))))
    assert {'distill.loss_nfd', 'distill.loss_kd'} <= logs.entries[0].keys()
    for _, taught in spy.calls:
        torch.testing.assert_close(
            taught.exp().sum(1), torch.ones(len(taught), *taught.shape[2:]))


def test_the_students_average_takes_part_and_resumes(tiny, tmp_path):
    """Off until the average begins; 2 and 2 iterations are 4."""

    def go(name, **changes):
        cfg = tiny.config(tmp_path / name, dict(
            type='mmselfkd.DistillHook',
            teacher=dict(type='CombinedTeacher', teachers=dict(
                big=tiny.teacher(8),
                average=dict(type='EMATeacher', begin=1, momentum=0.4))),
            losses=dict(loss_kd=KD)), param_scheduler=[], **NO_DROPOUT,
            **changes)
        keep_order(cfg)
        return train_config(cfg)[1].entries

    whole = go('a', iters=4)
    assert whole[0]['distill.loss_kd'] == 0 < whole[1]['distill.loss_kd']
    go('b')
    saved = load(tmp_path / 'b', 2)['mmselfkd']['teachers']
    assert list(saved['teacher']) == ['average']
    assert go('b', iters=4, resume=True) == whole[2:]
