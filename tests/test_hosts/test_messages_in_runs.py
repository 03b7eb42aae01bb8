"""What the refusals of hosts' models name works.

Each alternative of a message, on the first head that it is about; the ways
that ``benchmarks/hosts_table.py`` takes are on its page, which is checked
at the end.
"""
import copy
import re
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))
import hosts_table  # noqa: E402
from hosts_table import CRASH, DEAD_END, METHODS  # noqa: E402
from shipped_heads import DETECTORS, SEGMENTORS, SHIPPED  # noqa: E402

from mmselfkd import ConfigError  # noqa: E402

EMA = dict(type='EMATeacher')
KD = dict(type='KDLoss', source='logits', ignore_index=None)
RPN = dict(source='rpn_head.rpn_cls', schedule=None)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(Config, 'pretty_text', '')  # longer than the run


def hook(loss, teacher=EMA):
    return dict(type='mmselfkd.DistillHook', teacher=teacher,
                losses=dict(loss_x=loss))


def merged(base, change):
    """``change`` written into the config of a hook."""
    base = copy.deepcopy(base)
    for name, value in change.items():
        base[name] = merged(base[name], value) if isinstance(
            value, dict) and isinstance(base.get(name), dict) else value
    return base


def frskd(shipped):
    return METHODS['FRSKD'](shipped)


X = 'loss_x'
# shipped, the hook that is refused, what the message says, what is written
CASES = dict(
    rois_of_a_self_teacher=(
        DETECTORS['faster_rcnn'], frskd, "source='rpn_head.rpn_cls'",
        dict(losses=dict(loss_kd=RPN))),
    foreground_of_rois=(
        DETECTORS['faster_rcnn'], hook(dict(KD, foreground=0.5)),
        'foreground=None', dict(losses=dict(loss_x=dict(foreground=None)))),
    positions_of_rois=(
        DETECTORS['faster_rcnn'], hook(dict(
            type='PairwiseLoss', source='logits', pool=1)),
        "source='features'",
        dict(losses=dict(loss_x=dict(source='features')))),
    classes_of_rois=(
        DETECTORS['faster_rcnn'], hook(dict(
            type='ICSDLoss', source='logits')),
        "type='KDLoss' with source='logits'",
        dict(losses=dict(loss_x=dict(type='KDLoss')))),
    unknown_scores_by_their_activation=(
        DETECTORS['fcos'], hook(dict(
            KD, source='bbox_head.conv_centerness')),
        "activation='sigmoid'",
        dict(losses=dict(loss_x=dict(activation='sigmoid')))),
    unknown_scores_by_the_alias=(
        DETECTORS['fcos'], hook(dict(
            KD, source='bbox_head.conv_centerness')), "source='logits'",
        dict(losses=dict(loss_x=dict(source='logits')))),
    values_by_features=(
        DETECTORS['fcos'], hook(dict(KD, source='boxes')),
        "type='NFDLoss' with source='features'",
        dict(losses=dict(loss_x=dict(
            type='NFDLoss', source='features', ignore_index=None)))),
    sides_of_boxes=(
        DETECTORS['gfl'], hook(dict(type='ICSDLoss', source='boxes')),
        "type='KDLoss' with source='boxes'",
        dict(losses=dict(loss_x=dict(type='KDLoss')))),
    several_stages=(
        SEGMENTORS['erfnet'], METHODS['TFD'], 'list of modules',
        dict(losses=dict(loss_inter=dict(
            source=['backbone.encoder', 'backbone.decoder'])))),
    a_depth_map=(
        SEGMENTORS['vpd'], hook(KD), "use 'depth' or 'features'",
        dict(losses=dict(loss_x=dict(
            type='NFDLoss', source='features', ignore_index=None)))),
    regions_of_a_detector_without=(  # and without a neck
        DETECTORS['mask2former'], hook(dict(
            type='NFDLoss', source='rois')),
        "type='NFDLoss' with source='features'",
        dict(losses=dict(loss_x=dict(source='features')))),
    a_module_of_a_head=(
        DETECTORS['grid_rcnn'], hook(
            dict(type='ValueLoss', source='boxes')), 'name the module',
        dict(losses=dict(loss_x=dict(
            type='NFDLoss', source='roi_head.bbox_roi_extractor')))))


@pytest.mark.parametrize('name', CASES)
def test_what_a_message_names_works(name):
    shipped, refused, says, change = CASES[name]
    refused = refused(shipped) if callable(refused) else refused
    with pytest.raises(ConfigError) as error:
        hosts_table.train(shipped, refused)
    assert says in str(error.value)
    assert 'losses.' in str(error.value).partition(':')[0]
    change = copy.deepcopy(change)
    for loss in change['losses'].values():
        if loss.get('type') == 'NFDLoss':
            loss.pop('ignore_index', None)
            refused['losses']['loss_x'].pop('ignore_index', None)
    steps = hosts_table.train(shipped, merged(refused, change))
    assert any('distill' in name and value != 0
               for step in steps for name, value in step.items())


@pytest.mark.parametrize('head', ['faster_rcnn', 'ga_rpn'])
def test_another_loss_in_place_of_a_presets(head):
    """Another type starts without the preset's source: it is named too."""
    cell = hosts_table.run_cell(f'mmdet/{head}', 'ICSD')
    assert cell.outcome == 'refused'
    assert "type='KDLoss', source='logits'" in cell.way


@pytest.mark.parametrize('head, method', [
    ('fast_rcnn', 'FRSKD'), ('faster_rcnn_c4', 'FRSKD'),
    ('faster_rcnn_c4', 'CWD')])
def test_a_detector_without_rpn_or_neck_has_a_way(head, method):
    """No message names what it lacks; what is frozen needs no gradient."""
    cell = hosts_table.run_cell(f'mmdet/{head}', method)
    assert cell.outcome == 'refused' and cell.terms
    assert head != 'fast_rcnn' or 'rpn_head' not in cell.message


@pytest.mark.parametrize('shipped, source', [
    (SEGMENTORS['fcn'], 'boxes'), (SEGMENTORS['fcn'], 'rois'),
    (DETECTORS['fcos'], 'depth')])
def test_an_alias_of_other_models_has_a_way(shipped, source):
    loss = dict(type='ValueLoss', source=source)
    with pytest.raises(ConfigError, match=r'losses.loss_x.*and a \w+ is none'
                       ) as error:
        hosts_table.train(shipped, hook(loss))
    way, = hosts_table.suggestions(str(error.value))
    assert hosts_table.train(shipped, hook(way))


def test_a_cascade_student_of_a_teacher_with_one_head():
    teacher = dict(config=dict(
        model=DETECTORS['faster_rcnn'].model(), default_scope='mmdet'),
        checkpoint='random')
    with pytest.raises(ConfigError, match=r'\[i\]'):
        hosts_table.train(DETECTORS['cascade'], hook(KD, teacher))
    steps = hosts_table.train(DETECTORS['cascade'], hook(dict(
        KD, source=dict(student='logits', teacher='logits[2]')), teacher))
    assert any('loss_x' in name and value > 0
               for name, value in steps[-1].items())


def retinanet(classes, anchors):
    model = DETECTORS['retinanet'].model()
    model['bbox_head']['num_classes'] = classes
    model['bbox_head']['anchor_generator'].update(
        ratios=[1.0], scales_per_octave=anchors)
    return model


def gfl(reg_max):
    model = DETECTORS['gfl'].model()
    model['bbox_head']['reg_max'] = reg_max
    return model


CWD = dict(type='CWDLoss', source='logits')
BOXES = dict(type='NFDLoss', source='boxes')


@pytest.mark.parametrize('student, teacher, loss, says', [
    ('retinanet', retinanet(2, 27), CWD,
     ['6 classes for each of 9 anchors', '2 classes for each of 27']),
    ('retinanet', DETECTORS['fcos'].model(), CWD, ['9 anchors', '6 classes']),
    ('gfl', gfl(8), BOXES, ['17 bins', '9 bins', 'same reg_max']),
    ('detr', DETECTORS['conditional_detr'].model(), CWD, ['7 classes']),
    ('detr', DETECTORS['conditional_detr'].model(), KD, ['6 classes']),
    ('detr', DETECTORS['yolof'].model(), KD, ['12 object queries']),
    ('fcos', DETECTORS['detr'].model(), KD, ['12 object queries']),
    ('faster_rcnn', DETECTORS['fcos'].model(), KD, ['FCOS', 'RoIs'])],
    ids=lambda value: value if isinstance(value, str) else '')
def test_a_teacher_of_another_kind(student, teacher, loss, says):
    """Refused by what differs, whatever the loss, with the way by features."""
    with pytest.raises(ConfigError, match=r'^DistillHook.losses.loss_x'
                       ) as error:
        hosts_table.train(DETECTORS[student], hook(loss, dict(
            config=dict(model=teacher, default_scope='mmdet'),
            checkpoint='random')))
    assert all(part in str(error.value) for part in says)
    assert dict(type='NFDLoss', source='features') in list(
        hosts_table.suggestions(str(error.value)))


# -- the table ----------------------------------------------------------------


@pytest.mark.parametrize('message, found', [
    ("Hook.losses.loss_x: no; switch it off, losses=dict(loss_x=None), or "
     "name a source of maps, such as source='neck'",
     [dict(losses=dict(loss_x=None)), dict(source='neck')]),
    ("Hook.losses.loss_x: no; use a loss for values, type='ValueLoss', or "
     "use a loss on features, type='NFDLoss' with source='features'",
     [dict(type='ValueLoss'), dict(type='NFDLoss', source='features')]),
    ("Hook.losses.loss_x: no; use type='KDLoss' with source='neck[0]', or "
     "use a loss on features, type='NFDLoss' with source='features'",
     [dict(type='KDLoss', source='neck[0]'),
      dict(type='NFDLoss', source='features')]),
    ("Hook.teacher: no; name one, such as teacher=dict(type='SelfTeacher', "
     "neck=dict(type='FPN', out_channels=8))",
     [dict(teacher=dict(type='SelfTeacher', neck=dict(
         type='FPN', out_channels=8)))]),
    ('Hook.losses.loss_x: no; use pool=1 or a finer level', [dict(pool=1)]),
    ("Hook.losses.loss_x: no; use 'depth' or 'features'",
     [dict(source='depth')]),
    ('Hook.teacher: no; use another method, such as TFDHook',
     [dict(hook='TFDHook')]),
    ('Hook.teacher: no. There is nothing to be done', [])])
def test_suggestions_of_a_message(message, found):
    assert list(hosts_table.suggestions(message)) == found


def test_a_cell_of_each_outcome(monkeypatch):
    cell = hosts_table.run_cell('mmseg/fcn', 'TFD')
    assert cell.outcome == 'trained' and cell.terms['distill.loss_inter'] > 0
    cell = hosts_table.run_cell('mmdet/fcos', 'MixSKD')
    assert cell.outcome == 'refused' and 'TFDHook' in cell.way
    monkeypatch.setattr(hosts_table, 'suggestions', lambda message: [])
    assert hosts_table.run_cell('mmdet/fcos', 'MixSKD').outcome == DEAD_END

    def broken(*args):
        raise IndexError('list index out of range')

    monkeypatch.setattr(hosts_table, 'train', broken)
    cell = hosts_table.run_cell('mmdet/fcos', 'TFD')
    assert cell.outcome == CRASH and 'IndexError' in cell.message


def test_the_page_has_every_head_and_no_fault():
    """Each cell trained, or has a message whose way forward trained.

    And the page is as the tool writes it: nothing in it is by hand.
    """
    text = hosts_table.PAGE.read_text()
    entries = hosts_table.entries_of(text)
    assert set(entries) == {
        (head, method) for head in SHIPPED for method in METHODS}
    for key, (outcome, note) in entries.items():
        assert outcome == 'trained' or (
            outcome == 'refused' and re.search('What works: `.+`$', note)), key
    assert hosts_table.page(entries) == text


def test_a_cell_that_is_run_again():
    entries = hosts_table.entries_of(hosts_table.PAGE.read_text())
    key = 'mmseg/fcn', 'FGD'
    assert entries[key].outcome == 'refused'
    entries[key] = hosts_table.Entry('refused', '`x`: y. What works: `z`')
    entries['mmdet/yolof', 'LD'] = hosts_table.Entry('crash')
    again = hosts_table.entries_of(hosts_table.page(entries))
    assert again == entries
