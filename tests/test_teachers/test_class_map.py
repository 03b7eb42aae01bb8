"""Class maps: teachers of other label sets."""
import math
from contextlib import ExitStack

import pytest
import torch
from helpers import KD, NFD, At, Spy, pair, teacher_model
from helpers import train as train_config
from mmengine.registry import MODELS
from torch import nn

from mmselfkd import ConfigError, ModelTeacher
from mmselfkd.datasets.toy_scenes import CLASSES
from mmselfkd.distillation.agreement import accuracy
from mmselfkd.hosts import Reading, register_head, temporary_registrations
from mmselfkd.teachers import BatchContext, ClassMap, CombinedTeacher

THEIRS = ['car', 'bus', 'Fire-Hydrant', 'tree', 'truck']
OURS = ['sky', 'fire hydrant', 'vehicle', 'tree']
MAP = dict(car='vehicle', bus='vehicle', tree='tree', truck='vehicle')


def class_map(config, theirs=THEIRS, ours=OURS):
    return ClassMap(config, theirs, ours, 'teacher.classes')


@pytest.mark.parametrize('extra', [0, 1])
@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
def test_scores_against_plain_loops(activation, extra):
    """Two anchors; with a background channel there is one class more."""
    mapped = class_map(dict(map=MAP))
    reading = Reading('classes', activation, len(THEIRS) + extra)
    scores = 3 * torch.randn(2, 2 * reading.size, 2, 1).double()
    found = mapped(scores, reading)
    groups = [[0, 1, 4], [3]] + [[5]] * extra  # of vehicle, tree, background
    assert found.shape == (2, 2 * len(groups), 2, 1)
    for n in range(2):
        for a in range(2):
            for y in range(2):
                z = scores[n, a * reading.size:(a + 1) * reading.size, y, 0]
                own = found[n, a * len(groups):(a + 1) * len(groups), y, 0]
                if activation == 'softmax':
                    total = sum(math.exp(z[k]) for g in groups for k in g)
                    wanted = [sum(math.exp(z[k]) for k in g) / total
                              for g in groups]
                    assert own.softmax(0).tolist() == pytest.approx(wanted)
                else:
                    wanted = [max(1 / (1 + math.exp(-z[k])) for k in g)
                              for g in groups]
                    assert own.sigmoid().tolist() == pytest.approx(wanted)
    read = mapped.reading(reading, scores.shape[1])
    assert read == Reading('classes', activation, len(groups),
                           (2, 3) + (4, ) * extra)


def test_one_to_one_leaves_the_scores_as_they_are():
    mapped = class_map(dict(map=dict(tree='tree', bus='vehicle')))
    scores = torch.randn(1, 5, 2, 2)
    assert torch.equal(
        mapped(scores, Reading('classes', 'softmax')), scores[:, [1, 3]])


def test_equal_names():
    mapped = class_map(dict(by='name'))
    assert mapped.partners == (1, 3)
    assert mapped.groups == [[2], [3]]
    says = mapped.describe()
    assert 'fire hydrant <- Fire-Hydrant; tree <- tree' in says
    assert 'sky, vehicle of the student, 3 of the teacher' in says


def test_sure_scores_in_half_precision_stay_finite():
    scores = torch.full((1, 5, 1, 1), 6e4).half()
    found = class_map(dict(map=MAP))(scores, Reading('classes', 'softmax'))
    assert found.dtype == torch.float32 and found.isfinite().all()


@pytest.mark.parametrize('config, says', [
    (dict(map={'bux': 'tree'}), ["'bux' is no class of the teacher; nearest",
                                 "'bus'"]),
    (dict(map={'bus': 'vehicles'}), ["'vehicles' is no class of the student",
                                     "'vehicle'"]),
    (dict(map={}), ['no class has a partner', 'car, bus', 'sky']),
    (dict(by='name', names=list('abcde')), ['no class has a partner']),
    (dict(by='order'), ["classes.by = 'order'", "'name'"]),
    (dict(by='name', map=MAP), ["dict(by='name') is needed"]),
    (dict(), ["dict(by='name') is needed"]),
    ('name', ["teacher.classes = 'name'", "dict(by='name') is needed"]),
    (dict(map=['car']), ["classes.map = ['car']"]),
    (dict(by='name', nams=[]), ['classes.nams = []', "'names'"]),
    (dict(by='name', names='car'), ["classes.names = 'car'"]),
])
def test_what_cannot_be_read(config, says):
    with pytest.raises(ConfigError) as error:
        class_map(config)
    for part in says:
        assert part in str(error.value)


def test_names_that_nobody_says():
    with pytest.raises(ConfigError, match=r'teacher\.classes\.names: '):
        class_map(dict(by='name'), theirs=None)
    with pytest.raises(ConfigError, match='dataset.metainfo.classes'):
        class_map(dict(by='name'), ours=())
    with pytest.raises(ConfigError, match='5 class names .* 7 class scores'):
        class_map(dict(by='name')).reading(Reading('classes', 'softmax'), 7)


# -- in runs ------------------------------------------------------------------


def saved_teacher(path, config, layer, anchors=1, extra=0, classes=None):
    """The teacher with its classes in reversed order, and saved as such.

    Returns:
        tuple: The config of it as it was, and as it is saved in reverse.
    """
    model = MODELS.build(dict(
        config['config']['model'],
        _scope_=config['config']['default_scope']))
    teachers = []
    for name, order in ('plain', 1), ('reversed', -1):
        state = model.state_dict()
        for part in 'weight', 'bias':
            rows = state[f'{layer}.{part}']
            rows = rows.unflatten(0, (anchors, -1))
            count = rows.shape[1] - extra
            index = list(range(count))[::order] + [count] * extra
            state[f'{layer}.{part}'] = rows[:, index].flatten(0, 1)
        torch.save(dict(state_dict=state, meta=dict(dataset_meta=dict(
            classes=tuple(classes[::order])))), path / f'{name}.pth')
        teachers.append(dict(config, checkpoint=str(path / f'{name}.pth')))
    return teachers


def kd_hook(teacher, **losses):
    return dict(type='mmselfkd.DistillHook', teacher=teacher,
                losses=dict(dict(loss_kd=KD), **losses))


def test_another_order_of_the_classes(tiny, tmp_path):
    """By names it teaches what the plain teacher teaches."""
    plain, other = saved_teacher(
        tmp_path, tiny.teacher(8), 'decode_head.conv_seg', classes=CLASSES)
    found = []
    for teacher in plain, dict(other, classes=dict(by='name')), other:
        cfg = tiny.config(tmp_path / 'run', kd_hook(teacher))
        logs = train_config(cfg)[1]
        found.append([entry['distill.loss_kd'] for entry in logs.entries])
        if teacher is not other:
            found[-1] += [logs.entries[0][f'distill.{name}'] for name in (
                'agreement', 'teacher_accuracy')]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0][:2] != pytest.approx(found[2], rel=1e-3)


@pytest.mark.parametrize('name, layer, anchors, extra', [
    ('retinanet', 'bbox_head.retina_cls', 9, 0),
    ('faster', 'roi_head.bbox_head.fc_cls', 1, 1)])
def test_detectors(detectors, tmp_path, name, layer, anchors, extra):
    """Anchors are split, and the background of RoIs is a class of its own."""
    plain, other = saved_teacher(
        tmp_path, detectors.teacher(name), layer, anchors, extra, CLASSES[1:])
    found = []
    for teacher in plain, dict(other, classes=dict(by='name')):
        logs = train_config(detectors.config(
            tmp_path / 'run', name, kd_hook(teacher)))[1]
        found.append([entry['distill.loss_kd'] for entry in logs.entries])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_what_has_no_partner_takes_no_part(detectors, tmp_path, spy):
    """On the student's side: the chosen classes of each anchor."""
    names = list('abcdef')
    teacher = dict(detectors.teacher('retinanet'), classes=dict(
        names=names, map={'b': CLASSES[3], 'c': CLASSES[1],
                          'f': CLASSES[3]}))
    train_config(detectors.config(tmp_path, 'retinanet', kd_hook(
        teacher, loss_some=dict(type='Spy', source='logits'),
        loss_all=dict(type='Spy', source=pair('logits', 'features')))))
    levels = len(spy.calls) // 6  # rehearsal and two iterations, two losses
    for (some, taught), (whole, _) in zip(
            spy.calls[:levels], spy.calls[levels:]):
        whole = whole.unflatten(1, (9, 6))
        assert torch.equal(some.unflatten(1, (9, 2)), whole[:, :, [0, 2]])
        assert taught.shape == some.shape


def test_labels_follow_the_classes(tiny, tmp_path, spy):
    """Classes without a partner are none; what is ignored stays so."""
    seen, scores = [], []
    names = [f'{i}' for i in range(7)]
    teacher = dict(tiny.teacher(8), classes=dict(
        names=names, map={'4': CLASSES[5], '0': CLASSES[0]}))

    class Watch(Spy):

        def forward(self, student, teacher, label):
            seen.append((student.shape[1], label))
            scores.append(teacher)
            return super().forward(student, teacher)

    cfg = tiny.config(tmp_path, dict(
        type='mmselfkd.DistillHook', teacher=teacher, losses=dict(
            loss_kd=KD, loss_mapped=dict(type=Watch, source='logits'),
            loss_plain=dict(type=Watch, source='features'))))
    cfg.train_dataloader.dataset.pipeline.insert(
        2, dict(type='SomeIgnored'))
    logs = train_config(cfg, At(before_train=lambda runner: teacher_model(
        runner).decode_head.conv_seg.bias[0].fill_(100)))[1]  # the ground
    right = accuracy(scores[2], seen[2][1], 255)  # behind the rehearsal
    assert logs.entries[0]['distill.teacher_accuracy'] == float(right) > 0
    for (channels, mapped), (_, plain) in zip(seen[::2], seen[1::2]):
        assert channels == 2
        wanted = plain.clone()
        for label in plain.unique().tolist():
            wanted[plain == label] = {0: 0, 5: 1, 255: 255}.get(label, -1)
        assert torch.equal(mapped, wanted)
        assert {0, 1, -1, 255} <= set(wanted.unique().tolist())


def test_the_start_of_the_log_shows_the_map(tiny, tmp_path):
    names = [f'thing {i}' for i in range(7)]
    plain, _ = saved_teacher(
        tmp_path, tiny.teacher(8), 'decode_head.conv_seg', classes=names)
    teacher = dict(plain, classes=dict(map={
        'thing 2': CLASSES[1], 'thing 6': CLASSES[1],
        'thing 3': CLASSES[2]}))
    cfg = tiny.config(tmp_path, kd_hook(teacher))
    cfg.log_level = 'INFO'
    train_config(cfg)
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert f'{CLASSES[1]} <- thing 2 + thing 6; {CLASSES[2]} <- ' in log
    assert 'was trained on the classes' not in log


def test_names_of_the_config_and_of_old_files(tiny, tmp_path):
    from mmselfkd.teachers.frozen import _classes_of_file, classes_of_data
    wrapped = dict(
        default_scope='mmseg', test_dataloader=dict(dataset=dict(
            type='RepeatDataset', dataset=dict(type='CityscapesDataset'))))
    assert classes_of_data(wrapped)[:2] == ('road', 'sidewalk')
    own = dict(val_dataloader=dict(dataset=dict(
        type='CityscapesDataset', metainfo=dict(classes=['a', 'b']))))
    assert classes_of_data(own) == ['a', 'b']
    assert classes_of_data(dict(test_dataloader=dict(
        dataset=dict(type='TheirOwnDataset')))) is None
    assert _classes_of_file(dict(CLASSES=['a'])) == ('a', )
    assert _classes_of_file(None) is None


@pytest.mark.parametrize('teacher, losses, says', [
    (dict(classes=dict(by='name')), dict(loss_kd=KD),
     ['teacher.classes.names', 'the files of the teacher do not say']),
    (dict(classes=dict(names=list('abcdefg'), map={'a': CLASSES[1]})),
     dict(loss_nfd=NFD),
     ['no loss looks at class scores of this teacher', "'features'"]),
    (dict(classes=dict(names=list('abcdefg'), map={'a': CLASSES[1]})),
     dict(loss_kd=KD), ['softmax over one channel']),
    (dict(classes=dict(names=list('abcde'), map={'a': CLASSES[1]})),
     dict(loss_kd=KD), ['5 class names', 'its head 7 classes']),
    (dict(classes=dict(names=list('abcdef'), map={  # no background
        'a': CLASSES[1], 'b': CLASSES[2]})),
     dict(loss_kd=KD), ['6 class names', 'its head 7 classes']),
    (dict(classes=dict(names=list('abcdefg'), map={'a': 'disc'})),
     dict(loss_kd=KD), ["'disc' is no class of the student; nearest"]),
    (dict(classes=dict(names=list('abcdefg'), map={
        'a': CLASSES[0], 'b': CLASSES[6]})),
     dict(loss_kd=dict(KD, ignore_index=0)), ['ignore_index = 0', '255']),
])
def test_runs_that_cannot_work(tiny, tmp_path, teacher, losses, says):
    with pytest.raises(ConfigError) as error:
        train_config(tiny.config(tmp_path, dict(
            type='mmselfkd.DistillHook', losses=losses,
            teacher=dict(tiny.teacher(8), **teacher))))
    for part in says:
        assert part in str(error.value)


def test_other_numbers_of_classes_point_to_a_map(tiny, tmp_path):
    with pytest.raises(ConfigError, match="classes=dict.by='name'"):
        train_config(tiny.config(tmp_path, kd_hook(
            tiny.teacher(8, classes=5))))


def test_teachers_of_other_labels_combined():
    """Each is mapped to the student's classes, which must then agree."""

    class Net(nn.Module):

        def __init__(self, classes):
            super().__init__()
            self.scores = nn.Conv2d(3, classes, 1)

        def forward(self, x):
            return self.scores(x)

    first, second = Net(5), Net(2)

    def teacher(last):
        both = CombinedTeacher(dict(
            a=dict(type=ModelTeacher, model=first, classes=dict(
                names=THEIRS, map=MAP)),
            b=dict(type=ModelTeacher, model=second, classes=dict(
                names=['tram', 'oak'], map=dict(tram='vehicle', oak=last)))))
        context = BatchContext(
            nn.Module(), torch.rand(1, 3, 2, 2), None, classes=OURS)
        both.request('scores', 'key', nn.Module())
        both.fit(context, ExitStack())
        return both, both.rehearse(context).levels['scores'][0], context

    with temporary_registrations():
        register_head('Net', classes='scores', activation='softmax')
        both, found, context = teacher('tree')
        with torch.no_grad():
            q, p = (n(context.inputs).softmax(1) for n in (first, second))
        taken = torch.stack([q[:, [0, 1, 4]].sum(1), q[:, 3]], 1)
        wanted = (taken / taken.sum(1, keepdim=True) + p) / 2
        torch.testing.assert_close(found.exp(), wanted)
        assert both.place('scores').reading.partners == (2, 3)
        with pytest.raises(ConfigError, match=r"'a' and 'b'.*\(2, 3\)"):
            teacher('sky')
