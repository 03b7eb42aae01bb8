"""One hook on the detectors of mmdet, by a real Runner."""
import copy
import math

import pytest
import torch
from helpers import (
    At,
    assert_clean,
    assert_stock,
    distillation,
    load,
    teacher_model,
)
from helpers import train as train_config
from mmengine.registry import MODELS as MMENGINE_MODELS

from mmselfkd.errors import ConfigError

DENSE = ('retinanet', 'fcos', 'atss', 'gfl', 'yolox', 'rtmdet')
KD = dict(type='KDLoss', source='logits', ignore_index=None)


def losses_of(runner):
    """The losses in use, by key."""
    return {term.name: term.loss for term in distillation(runner).terms}


def train(cfg):
    """Two iterations of finite values; Runner, log and losses."""
    runner, logs = train_config(cfg, look=losses_of)
    assert len(logs.entries) == 2
    for log in logs.entries:
        bad = {k: v for k, v in log.items() if not math.isfinite(v)}
        assert not bad
    return runner, logs.entries, logs.seen[-1]


def distil(losses, teacher, **kwargs):
    return dict(type='mmselfkd.DistillHook', losses=losses, teacher=teacher,
                **kwargs)


def refuse(tiny, cfg):
    """What the error says before the first iteration."""
    with pytest.raises(ConfigError) as error:
        runner = tiny.build(cfg)
        runner.train()
    if 'runner' in locals():
        assert runner.iter == 0
        assert_clean(runner)
    return str(error.value)


@pytest.mark.parametrize('name', DENSE)
def test_every_loss_on_dense_heads(tiny, detectors, tmp_path, name):
    levels = 3 if name in ('yolox', 'rtmdet') else 5
    losses = dict(
        loss_pi=KD,
        loss_pa=dict(type='PairwiseLoss', source='neck'),
        loss_ho=dict(type='HolisticLoss', source='logits[0]'),
        loss_nfd=dict(type='NFDLoss', source='features', foreground=0.5),
        loss_icsd=dict(type='ICSDLoss', source='logits'),
        loss_box=dict(type='NFDLoss', source='boxes'),
        loss_at=dict(type='ATLoss', source='backbone'))
    width = 12 if name not in ('yolox', 'rtmdet') else 8
    runner, logs, terms = train(detectors.config(
        tmp_path, name, distil(losses, detectors.teacher(name, width))))
    for key in losses:
        assert logs[0][f'distill.{key}'] != 0, key
    assert terms['loss_pi'].activation == 'sigmoid'
    saved = load(tmp_path, 2)
    assert_stock(saved, dict(detectors.model(name), _scope_='mmdet'))
    ours = saved['mmselfkd']['discriminators']['loss_ho']['losses']
    assert {key.partition('.')[0] for key in ours} == {'0'}  # one level
    assert_clean(runner)
    assert levels == len(runner.model.bbox_head.prior_generator.strides)


class Batches(At):
    """What the data loader gave, and the sizes of its images."""

    def __init__(self):
        self.data = []
        super().__init__(before_train_iter=lambda runner, data_batch, **_:
                         self.data.append(copy.deepcopy(data_batch)))

    def mask(self, height, width, stride):
        """1 where the cell of a position of the last batch begins in it."""
        return torch.stack([
            (torch.arange(height)[:, None] * stride < sample.img_shape[0])
            & (torch.arange(width) * stride < sample.img_shape[1])
            for sample in self.data[-1]['data_samples']])[:, None].float()


def test_what_a_loss_sees_of_padded_images(tiny, detectors, tmp_path, spy):
    """The weight of every loss that takes one; for others zeros."""
    losses = {
        f'loss_{i}': dict(loss, source=f'{source}[0]')
        for i, (source, loss) in enumerate([
            ('logits', KD), ('logits', dict(type='ICSDLoss')),
            ('neck', dict(type='NFDLoss')), ('neck', dict(type='ATLoss')),
            ('neck', dict(type='FitNetsLoss')),
            ('neck', dict(type='PairwiseLoss', pool=None)),
            ('neck', dict(type='CWDLoss')), ('boxes', dict(type='NFDLoss'))])}
    looks = ('neck', 'logits', 'boxes')
    spies = {f'loss_see_{source}': dict(type='Spy', source=f'{source}[0]')
             for source in looks}
    batches = Batches()
    cfg = detectors.config(tmp_path, 'fcos', distil(
        losses | spies, detectors.teacher('fcos')))
    runner, logs = train_config(cfg, batches, look=losses_of)
    maps = dict(zip(looks, spy.calls[-3:]))
    mask = batches.mask(*maps['neck'][0].shape[2:], stride=8)
    assert 0 < mask.mean() < 0.9
    for student, teacher in maps.values():
        for level in student, teacher:
            assert torch.equal(level, level * mask) and level.any()
    for key, loss in losses.items():
        student, teacher = maps[loss['source'].partition('[')[0]]
        compare = logs.seen[-1][key]
        expected = compare(student, teacher, weight=mask)
        assert logs.entries[-1][f'distill.{key}'] == pytest.approx(
            float(expected), rel=1e-4), key
        assert float(compare(student, teacher)) != pytest.approx(
            float(expected), rel=1e-2), key


def test_a_teacher_pads_as_it_would_itself(tiny, detectors, tmp_path):
    """In its own normalisation, by its own value."""
    teacher, seen, batches = detectors.teacher('fcos'), [], Batches()
    teacher['config']['model']['data_preprocessor'].update(
        mean=[10., 20., 30.], std=[3., 4., 5.], bgr_to_rgb=True, pad_value=7)
    models = []

    def look(runner):
        models.append(teacher_model(runner))
        models[0].backbone.register_forward_pre_hook(
            lambda module, args: seen.append(args[0]))

    train_config(detectors.config(tmp_path, 'fcos', distil(
        dict(loss_kd=KD), teacher), **{'train_cfg.max_iters': 1}),
        batches, At('LOWEST', before_train=look))
    expected = models[0].data_preprocessor(batches.data[0], True)['inputs']
    assert (expected == 7).any()
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-3)


def save_start(tiny, detectors, tmp_path, name):
    """A model's weights as a file, for teacher and student alike."""
    torch.manual_seed(1)
    built = MMENGINE_MODELS.build(
        dict(detectors.model(name), _scope_='mmdet'))
    built.init_weights()
    for head in ('bbox_head', 'rpn_head', 'roi_head'):  # off the small start
        for p in getattr(built, head, torch.nn.Module()).parameters():
            p.data.add_(torch.randn_like(p) * 0.02)
    path = str(tmp_path / 'start.pth')
    torch.save(dict(state_dict=built.state_dict()), path)
    return path


@pytest.mark.parametrize('name, sources', [
    ('fcos', ['logits', 'neck', 'boxes']),
    ('faster', ['logits', 'roi_head.bbox_roi_extractor', 'rpn_head.rpn_cls',
                'roi_head.bbox_head.fc_reg']),
    ('cascade', ['logits', 'roi_head.bbox_roi_extractor',
                 'roi_head.bbox_head[0]']),
    ('mask', ['roi_head.mask_head.conv_logits', 'logits',
              'roi_head.mask_roi_extractor']),
    ('detr', ['logits', 'neck']),
    ('deformable', ['logits', 'neck']),
])
def test_a_teacher_of_the_same_weights_says_the_same(
        tiny, detectors, tmp_path, name, sources):
    # of RoIs only if it looks at those of the student
    start = save_start(tiny, detectors, tmp_path, name)
    losses = {f'loss_{i}': dict(type='SquaredDifference', source=source)
              for i, source in enumerate(sources)}
    changes = {'load_from': start, 'optim_wrapper.optimizer.lr': 0.0,
               'model.backbone.norm_eval': True}
    cfg = detectors.config(
        tmp_path, name,
        distil(losses, detectors.teacher(name, checkpoint=start)), **changes)
    for part in walk(cfg.model):
        for key, value in part.items():
            if 'drop' in key and isinstance(value, float):
                part[key] = 0.0
    runner, logs, _ = train(cfg)
    for key in losses:
        assert abs(logs[0][f'distill.{key}']) < 1e-9, (key, logs)


def walk(value):
    if isinstance(value, dict):
        yield value
        value = value.values()
    if not isinstance(value, str):
        try:
            for item in list(value):
                yield from walk(item)
        except TypeError:
            pass


def test_another_teacher_says_something_else_of_the_rois(
        tiny, detectors, tmp_path):
    losses = dict(
        loss_kd=KD,
        loss_roi=dict(type='NFDLoss', source='roi_head.bbox_roi_extractor'),
        loss_mask=dict(KD, source='roi_head.mask_head.conv_logits'),
        loss_rpn=dict(KD, source='rpn_head.rpn_cls'))
    _, logs, terms = train(detectors.config(
        tmp_path, 'mask', distil(losses, detectors.teacher('mask', 12))))
    for key in losses:
        assert logs[0][f'distill.{key}'] > 0, key
    activations = {key: terms[key].activation
                   for key in ('loss_kd', 'loss_mask', 'loss_rpn')}
    assert activations == dict(
        loss_kd='softmax', loss_mask='sigmoid', loss_rpn='sigmoid')


def test_an_average_teaches_on_the_rois_of_the_student(
        tiny, detectors, tmp_path):
    hook = distil(dict(loss_kd=KD), dict(type='EMATeacher'))
    runner, logs, _ = train(detectors.config(tmp_path, 'faster', hook))
    assert logs[0]['distill.loss_kd'] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('hook', ['SKDHook', 'NFDHook', 'ICSDHook',
                                  'AICSDHook', 'KADTDHook'])
def test_presets(tiny, detectors, tmp_path, hook):
    cfg = detectors.config(tmp_path, 'fcos', dict(
        type=f'mmselfkd.{hook}', teacher=detectors.teacher('fcos')))
    runner, logs, _ = train(cfg)
    assert any(k.startswith('distill.loss') for k in logs[0])


def test_teacher_free_preset(tiny, detectors, tmp_path):
    runner, logs, _ = train(detectors.config(
        tmp_path, 'retinanet', dict(type='mmselfkd.TFDHook')))
    assert logs[1]['distill.loss_inter'] > 0


@pytest.mark.parametrize('name', ['fcos', 'retinanet', 'yolox', 'faster'])
def test_frskd(tiny, detectors, tmp_path, name):
    hook = dict(type='mmselfkd.FRSKDHook', losses=dict(
        loss_at=dict(schedule=None), loss_kd=dict(schedule=None)))
    if name == 'faster':
        hook['losses']['loss_kd']['source'] = 'rpn_head.rpn_cls'
    runner, logs, _ = train(detectors.config(tmp_path, name, hook))
    log = logs[0]
    own = [k for k in log if k.startswith('distill.teacher.')]
    task = [k for k in log if 'loss' in k and not k.startswith('distill')]
    assert sorted(k[len('distill.teacher.'):] for k in own) == sorted(
        k for k in task if k != 'loss')
    assert log['distill.loss_at'] > 0 and log['distill.loss_kd'] != 0
    saved = load(tmp_path, 2)
    assert set(saved['state_dict']) == set(runner.model.state_dict())
    assert any('neck' in k for k in saved['mmselfkd']['modules'])


def test_without_boxes_foreground_is_exactly_zero(tiny, detectors, tmp_path):
    losses = dict(
        loss_kd=dict(KD, foreground=1),
        loss_nfd=dict(type='NFDLoss', source='neck', foreground=1),
        loss_pa=dict(type='PairwiseLoss', source='neck', foreground=1))
    cfg = detectors.config(
        tmp_path, 'fcos', distil(losses, detectors.teacher('fcos', 12)))
    pipeline = cfg.train_dataloader.dataset.pipeline
    pipeline.insert(2, dict(type='NoBoxes'))
    pipeline[-1]['meta_keys'] = ('img_shape', 'ori_shape')
    cfg.train_dataloader.dataset.filter_cfg = None
    runner, logs, _ = train(cfg)
    for key in losses:
        assert logs[1][f'distill.{key}'] == 0, key


def test_without_boxes_there_are_no_masks_to_compare(
        tiny, detectors, tmp_path):
    losses = dict(loss_mask=dict(KD, source='roi_head.mask_head.conv_logits'),
                  loss_nfd=dict(type='NFDLoss',
                                source='roi_head.mask_roi_extractor'))
    cfg = detectors.config(
        tmp_path, 'mask', distil(losses, detectors.teacher('mask', 12)))
    cfg.train_dataloader.dataset.pipeline.insert(2, dict(type='NoBoxes'))
    runner, logs, _ = train(cfg)
    assert logs[1]['distill.loss_mask'] == 0
    assert logs[1]['distill.loss_nfd'] == 0


def test_one_class_by_sigmoid(tiny, detectors, tmp_path):
    teacher = detectors.teacher('retinanet', 12)
    teacher['config']['model']['bbox_head']['num_classes'] = 1
    cfg = detectors.config(
        tmp_path, 'retinanet', distil(dict(loss_kd=KD), teacher))
    cfg.model.bbox_head.num_classes = 1
    cfg.train_dataloader.dataset.metainfo = dict(classes=('striped disc', ))
    runner, logs, _ = train(cfg)
    assert logs[0]['distill.loss_kd'] > 0


def named(detectors, name, change):
    teacher = detectors.teacher(name)
    change(teacher['config']['model'])
    return teacher


def other_strides(model):
    model['neck'].update(start_level=0)
    model['bbox_head']['strides'] = [4, 8, 16, 32, 64]


def fewer_levels(model):
    model['neck'].update(num_outs=4)
    model['bbox_head'].update(strides=[8, 16, 32, 64], regress_ranges=(
        (-1, 64), (64, 128), (128, 256), (256, 1e8)))


@pytest.mark.parametrize('losses, change, says', [
    (dict(loss_kd=KD), lambda m: m['bbox_head'].update(num_classes=3),
     ['losses.loss_kd', '6 classes', '3']),
    (dict(loss_nfd=dict(type='NFDLoss', source='neck')), other_strides,
     ['losses.loss_nfd.source', 'strides', '(24, 24)', 'neck[1]']),
    (dict(loss_kd=KD), fewer_levels,
     ['losses.loss_kd.source', '5 levels', '4 of the teacher', '[i]']),
])
def test_teachers_that_do_not_fit(tiny, detectors, tmp_path, losses, change,
                                  says):
    teacher = named(detectors, 'fcos', change)
    message = refuse(tiny, detectors.config(
        tmp_path, 'fcos', distil(losses, teacher)))
    assert all(word in message for word in says), message


@pytest.mark.parametrize('name, hook, says', [
    ('fcos', dict(type='MixSKDHook'), ['teacher', 'segmentors only', 'FCOS']),
    ('faster', dict(type='FRSKDHook'),
     ['losses.loss_kd', 'RoIs', 'rpn_head.rpn_cls']),
    ('detr', dict(type='FRSKDHook'), ['teacher.neck', 'two or more']),
    ('faster', dict(type='ICSDHook', teacher=True),
     ['losses.loss_icsd', 'ICSDLoss', 'RoI', 'loss_icsd=None']),
    ('faster', dict(type='KADTDHook', teacher=True),
     ['losses.loss_kd.adjust', 'RoIs', 'adjust=None']),
    ('faster', dict(type='SKDHook', teacher=True,
                    losses=dict(loss_pi=None, loss_pa=None)),
     ['losses.loss_ho', 'RoIs']),
    ('fcos', dict(type='DistillHook', teacher=True, losses=dict(
        loss_x=dict(KD, source='mask_rois'))),
     ['losses.loss_x.source', 'roi_head.mask_roi_extractor',
      "source='features'"]),
    ('fcos', dict(type='DistillHook', teacher=True, losses=dict(
        loss_x=dict(KD, foreground=1.5))),
     ['loss_x.foreground', 'at most 1', 'got 1.5']),
    ('fcos', dict(type='DistillHook', teacher=True, losses=dict(
        loss_x=dict(type='HolisticLoss', source='logits', foreground=0.5))),
     ['loss_x.foreground', 'HolisticLoss', 'no weight']),
    ('fcos', dict(type='DistillHook', teacher=True, losses=dict(
        loss_x=dict(KD, source='depth'))),
     ["loss_x.source = 'depth'", 'a depth estimator has such',
      'a FCOS is none', "source='features'"]),
    ('detr', dict(type='DistillHook', teacher=True, losses=dict(
        loss_x=dict(type='NFDLoss', source=dict(
            student='logits', teacher='neck')))),
     ['loss_x.source', '12 object queries of the student',
      "source='features'"]),
    ('fcos', dict(type='FRSKDHook', teacher=dict(
        type='SelfTeacher', head=dict(type='FCOSHead'))),
     ['teacher.head', 'copy of its own']),
])
def test_what_a_detector_cannot_have(tiny, detectors, tmp_path, name, hook,
                                     says):
    hook = dict(hook, type='mmselfkd.' + hook['type'])
    if hook.get('teacher') is True:
        hook['teacher'] = detectors.teacher(name)
    message = refuse(tiny, detectors.config(tmp_path, name, hook))
    assert all(word in message for word in says), message


def test_a_head_that_is_not_known(tiny, detectors, tmp_path):
    cfg = detectors.config(tmp_path, 'fcos', distil(
        dict(loss_kd=KD), detectors.teacher('fcos')))
    cfg.model.bbox_head.type = 'mmselfkd.UnknownHead'
    message = refuse(tiny, cfg)
    assert "loss_kd.source = 'logits'" in message
    assert 'UnknownHead' in message and "source='features'" in message


def test_the_user_sets_the_groups_of_box_sides(tiny, detectors, tmp_path):
    """To what they are, or it is an error: never another number unseen."""
    def cfg(groups):
        loss = dict(KD, source='boxes', groups=groups)
        return detectors.config(tmp_path, 'gfl', distil(
            dict(loss_box=loss), detectors.teacher('gfl')))

    message = refuse(tiny, cfg(2))
    assert 'loss_box.groups = 2' in message and 'groups=4' in message
    assert train(cfg(4))[2]['loss_box'].groups == 4


def test_foreground_needs_boxes(tiny, tmp_path):
    cfg = tiny.config(tmp_path, distil(dict(loss_nfd=dict(
        type='NFDLoss', source='features', foreground=0.5)), tiny.teacher()))
    message = refuse(tiny, cfg)
    assert 'no boxes' in message and '`foreground`' in message


def test_a_compiled_teacher_on_the_students_rois(tiny, detectors, tmp_path):
    """Backbone, neck and box head in graphs; the same losses."""
    losses = dict(loss_kd=KD, loss_mask=dict(
        type='NFDLoss', source='roi_head.mask_head.conv_logits'))
    logs = []
    for options in ({}, dict(compile=dict(backend='eager'))):
        torch._dynamo.reset()
        teacher = dict(detectors.teacher('mask', 12), **options)
        logs.append(train(detectors.config(
            tmp_path, 'mask', distil(losses, teacher)))[1])
    torch._dynamo.reset()
    for expected, log in zip(*logs):
        assert log == pytest.approx(expected, rel=1e-5)
