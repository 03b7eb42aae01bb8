"""What goes wrong in silence or in a dead end, with models of the hosts.

Each by a real run of two steps; the models are shipped ones, narrowed, or
those of ``tiny_runs``.
"""
import copy
import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, TRANSFORMS
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))
import hosts_table  # noqa: E402
import shipped_heads  # noqa: E402
import tiny_runs  # noqa: E402
from shipped_heads import DETECTORS, SEGMENTORS, Shipped  # noqa: E402

from mmselfkd import ConfigError  # noqa: E402

KD = dict(type='KDLoss', source='logits', ignore_index=None)
EMA = dict(type='EMATeacher')


def hook(teacher, **losses):
    return dict(type='mmselfkd.DistillHook', teacher=teacher, losses={
        f'loss_{name}': loss for name, loss in losses.items()})


def random_teacher(model, scope='mmseg'):
    return dict(config=dict(model=model, default_scope=scope),
                checkpoint='random')


def values(step):
    """The distillation losses of a step by their name without ``loss_``."""
    return {name.rpartition('loss_')[2]: value
            for name, value in step.items()
            if 'distill' in name and 'loss_' in name}


def train(cfg):
    """The steps of a config of ``tiny_runs``."""
    recorder = hosts_table.Recorder()
    runner = tiny_runs.build(cfg)
    runner.register_hook(recorder)
    runner.train()
    return recorder.steps


@MODELS.register_module()
class Compared(nn.Module):
    """A user's own loss that keeps what it is given."""

    channels = 'any'
    seen: list = []

    def forward(self, student, teacher, label=None):
        Compared.seen.append((student.detach(), teacher.detach()))
        return (student.mean() - teacher.detach().mean()).square()


@pytest.fixture(autouse=True)
def compared(monkeypatch):
    monkeypatch.setattr(Config, 'pretty_text', '')  # longer than the run
    monkeypatch.setattr(Compared, 'seen', [])
    return Compared.seen


# -- class scores -------------------------------------------------------------


CE = dict(type='CrossEntropyLoss', loss_name='loss_ce')
BCE = dict(CE, use_sigmoid=True)
DICE = dict(type='DiceLoss', loss_name='loss_dice')
LOVASZ = dict(type='LovaszLoss', reduction='none', loss_name='loss_lovasz')


def divergence(student, teacher, activation):
    """KL of softmax, or the binary one of each class, at each pixel."""
    s, t = student.double(), teacher.double()
    if activation == 'softmax':
        log_s, log_t = s.log_softmax(1), t.log_softmax(1)
        return float((log_t.exp() * (log_t - log_s)).sum(1).mean())
    p, q = t.sigmoid(), s.sigmoid()
    return float((p * (p / q).log() + (1 - p) * (
        (1 - p) / (1 - q)).log()).sum(1).mean())


@pytest.mark.parametrize('losses, channels, activation', [
    ([CE, DICE], 7, 'softmax'), ([DICE, CE], 7, 'softmax'),
    ([BCE, DICE], 7, 'sigmoid'), ([DICE, BCE], 1, 'sigmoid'),
    ([BCE, LOVASZ], 7, 'sigmoid'), ([CE, LOVASZ], 7, 'softmax'),
    ([dict(type='TverskyLoss')], 7, 'softmax'),
    ([dict(DICE, use_sigmoid=False)], 7, 'softmax'),
    ([dict(LOVASZ, loss_type='binary', per_image=True)], 1, 'sigmoid')])
def test_lists_of_losses(tmp_path, compared, losses, channels, activation):
    """The KDLoss is that of the activation which the losses take."""
    teacher = tiny_runs.teacher()
    cfg = tiny_runs.config(tmp_path, hook(
        teacher, kd=KD, x=dict(type='Compared', source='logits')), iters=1)
    for model in (cfg.model, cfg.custom_hooks[0].teacher.config.model):
        head = model.decode_head
        head.loss_decode = losses if len(losses) > 1 else losses[0]
        model.auxiliary_head = None
        if channels == 1:
            head.update(num_classes=2, out_channels=1, threshold=0.5)
    if channels == 1:
        cfg.train_dataloader.dataset.pipeline.insert(
            2, dict(type='BinaryLabels'))
    step, = train(cfg)
    student, theirs = compared[-1]
    assert student.shape[1] == channels
    assert values(step)['kd'] == pytest.approx(
        divergence(student, theirs, activation), rel=1e-4)


@pytest.mark.parametrize('head, source, activation, size', [
    ('yolof', 'logits', 'sigmoid', 6), ('ssdlite', 'logits', 'softmax', 7),
    ('yolov3', 'logits', 'sigmoid', 6), ('gfl', 'boxes', 'softmax', 17)])
def test_anchors_are_told_apart(compared, head, source, activation, size):
    shipped = DETECTORS[head]
    step = hosts_table.train(shipped, hook(
        random_teacher(shipped.model(), 'mmdet'), kd=dict(KD, source=source),
        x=dict(type='Compared', source=source)))[-1]
    levels = compared[-len(compared) // 3:]  # of the last of three passes
    wanted = sum(divergence(*(x.unflatten(1, (-1, size)).flatten(0, 1)
                              for x in pair), activation)
                 for pair in levels) / len(levels)
    groups = [level.shape[1] // size for level, _ in levels]
    assert all(group >= 1 for group in groups)
    assert values(step)['kd'] == pytest.approx(wanted, rel=1e-3)


def test_values_are_no_scores():
    retinanet = DETECTORS['retinanet']
    with pytest.raises(ConfigError, match='ValueLoss') as error:
        hosts_table.train(retinanet, hook(EMA, kd=dict(KD, source='boxes')))
    assert 'losses.loss_kd' in str(error.value)
    assert 'values' in str(error.value)
    step = hosts_table.train(retinanet, hook(
        EMA, kd=dict(type='ValueLoss', source='boxes')))[-1]
    assert values(step)['kd'] > 0


def test_what_is_not_known_is_refused_with_the_choices():
    with pytest.raises(ConfigError) as error:
        hosts_table.train(DETECTORS['fcos'], hook(
            EMA, kd=dict(KD, source='bbox_head.conv_centerness')))
    for choice in ('activation=', 'classes=', 'register_head', 'features'):
        assert choice in str(error.value)


@pytest.mark.parametrize('ours, theirs', [((6, 3), (2, 9)), ((6, 1), (2, 3)),
                                          ((6, 6), (12, 3))])
def test_equal_products_of_classes_and_anchors(ours, theirs):
    """Classes x anchors agree, classes and anchors do not."""

    def model(classes, anchors):
        cfg = DETECTORS['retinanet'].model()
        head = cfg['bbox_head']
        head['num_classes'] = classes
        head['anchor_generator'].update(
            ratios=[1.0], scales_per_octave=anchors)
        return cfg

    shipped = copy.copy(DETECTORS['retinanet'])
    object.__setattr__(shipped, 'model', lambda divisor=8: model(*ours))
    with pytest.raises(ConfigError) as error:
        hosts_table.train(shipped, hook(
            random_teacher(model(*theirs), 'mmdet'), kd=KD))
    for classes, anchors in (ours, theirs):
        assert f'{classes} classes' in str(error.value)
        assert anchors == 1 or f'{anchors} anchors' in str(error.value)


# -- labels -------------------------------------------------------------------


@TRANSFORMS.register_module()
class OneLabel(BaseTransform):
    """Every pixel has the same label."""

    def __init__(self, label):
        self.label = label

    def transform(self, results):
        results['gt_seg_map'][:] = self.label
        return results


VOID = (dict(type='OneLabel', label=0), )


def void(shipped):
    """The head ignores class 0, and there is no other."""
    model = shipped.model()
    heads = model['decode_head']
    for head in heads if isinstance(heads, list) else [heads]:
        head.get('kernel_generate_head', head)['ignore_index'] = 0
    other = Shipped(shipped.host, shipped.config, transforms=VOID)
    object.__setattr__(other, 'model', lambda divisor=8: copy.deepcopy(model))
    return other


@pytest.mark.parametrize('head', ['fcn', 'knet_fcn', 'ocrnet', 'pointrend'])
def test_what_the_head_ignores(head):
    shipped = void(SEGMENTORS[head])
    kd = dict(type='KDLoss', source='logits')
    step = hosts_table.train(shipped, hook(
        random_teacher(shipped.model()), default=kd,
        explicit=dict(kd, ignore_index=255), every=dict(
            kd, ignore_index=None)))[-1]
    found = values(step)
    assert found['default'] == 0
    assert found['explicit'] == found['every'] > 1e-3


OHEM = dict(type='OhemCrossEntropy', ignore_label=0)
TVERSKY = dict(type='TverskyLoss', ignore_index=0, loss_name='loss_tversky')


@pytest.mark.parametrize('head, losses, ignored', [
    ('fcn', TVERSKY, 0), ('ddrnet', [OHEM, OHEM], 0),
    ('fcn', [TVERSKY, CE], 255), ('fcn', [CE, dict(DICE, ignore_index=0)], 255)
], ids=['tversky', 'ohem', 'tversky and ce', 'ce and dice'])
def test_losses_with_a_label_of_their_own(head, losses, ignored):
    """It counts where the head leaves 255 and all losses say another one."""
    shipped = SEGMENTORS[head]
    model = shipped.model()
    model['decode_head']['loss_decode'] = losses
    model.pop('auxiliary_head', None)
    other = dataclasses.replace(shipped, transforms=VOID)
    object.__setattr__(other, 'model', lambda divisor=8: copy.deepcopy(model))
    step = hosts_table.train(other, hook(
        random_teacher(model), kd=dict(type='KDLoss', source='logits')))[-1]
    assert (values(step)['kd'] == 0) == (ignored == 0)


@pytest.mark.parametrize('losses', [
    [CE, dict(TVERSKY, ignore_index=255)], [CE, dict(DICE, ignore_index=255)]],
    ids=['tversky', 'dice'])
def test_mixed_images_where_losses_have_a_label_of_their_own(losses):
    """The label that the head ignores is no class for any of them.

    Without a class Tversky is 0 and Dice 1, of the branches, the mixed
    scores and the two self-teachers.
    """
    shipped = void(SEGMENTORS['fcn'])
    model = shipped.model()
    model['decode_head']['loss_decode'] = losses
    other = dataclasses.replace(shipped)
    object.__setattr__(other, 'model', lambda divisor=8: copy.deepcopy(model))
    found = values(hosts_table.train(
        other, dict(type='mmselfkd.MixSKDHook'))[-1])
    unit = float(losses[1]['type'] == 'DiceLoss')
    assert found['branches'] == pytest.approx(3 * unit, abs=1e-6)
    assert found['mixed'] == pytest.approx(4 * unit, abs=1e-6)
    assert found['aggregated'] == pytest.approx(2 * unit, abs=1e-6)


@pytest.mark.parametrize('ignore_index', [None, 255])
def test_a_void_pixel_has_no_class_to_adjust_to(ignore_index):
    """Whether or not it takes part in the loss."""
    shipped = void(SEGMENTORS['fcn'])
    kd = dict(type='KDLoss', source='logits', ignore_index=ignore_index)
    found = values(hosts_table.train(shipped, hook(
        random_teacher(shipped.model()), plain=kd, adjusted=dict(
            kd, adjust=dict(type='LabelSmoothing'))))[-1])
    assert found['adjusted'] == found['plain'] > 1e-3


@pytest.mark.parametrize('stage, ignored', [(0, 0), (1, 255)])
def test_what_a_stage_of_a_cascade_ignores(stage, ignored):
    """Its own label, whatever the last stage ignores."""
    shipped = SEGMENTORS['ocrnet']
    model = shipped.model()
    for head, label in zip(model['decode_head'], (0, 255)):
        head['ignore_index'] = label
    other = Shipped(shipped.host, shipped.config, transforms=VOID)
    object.__setattr__(other, 'model', lambda divisor=8: copy.deepcopy(model))
    step = hosts_table.train(other, hook(random_teacher(model), kd=dict(
        type='KDLoss', source=f'decode_head.{stage}.conv_seg')))[-1]
    assert (values(step)['kd'] == 0) == (ignored == 0)


@pytest.mark.parametrize('head', ['panoptic_fpn', 'htc'])
def test_what_a_semantic_head_ignores(head):
    """Of void pixels it learns nothing, whatever lies in the boxes."""
    path = dict(panoptic_fpn='semantic_head', htc='roi_head.semantic_head')
    shipped = DETECTORS[head]
    found = {}
    for label in (255, 6):
        other = dataclasses.replace(shipped, transforms=(
            dict(type='OneLabel', label=label), ))
        step = hosts_table.train(other, hook(
            random_teacher(shipped.model(4), 'mmdet'), kd=dict(
                type='KDLoss', source=f'{path[head]}.conv_logits')))[-1]
        found[label] = values(step)['kd']
    assert found[255] == 0 and found[6] > 1e-3


def test_what_the_head_ignores_in_mixed_images():
    steps = hosts_table.train(void(SEGMENTORS['fcn']),
                              dict(type='mmselfkd.MixSKDHook'))
    for step in steps:
        found = values(step)
        assert found['fea'] > 0  # features have no label
        for name in ('b', 'f', 'branches', 'mixed', 'aggregated'):
            assert found[name] == 0


# -- inputs -------------------------------------------------------------------


def banded(tmp_path, count, teacher_preprocessor, **options):
    """A student of so many channels; its teacher normalises otherwise."""

    def model(width, channels, **preprocessor):
        cfg = tiny_runs.model(width, **preprocessor)
        cfg['backbone']['in_channels'] = channels
        cfg['auxiliary_head'] = None
        return cfg

    theirs = teacher_preprocessor.pop('channels', count)
    plain = dict(mean=[100.], std=[50.], bgr_to_rgb=False)  # of all alike
    teacher = random_teacher(model(4, theirs, **teacher_preprocessor))
    teacher.update(options)
    cfg = tiny_runs.config(tmp_path, hook(teacher, x=dict(
        type='Compared', source='backbone.stem.0')), iters=1)
    cfg.model = model(4, count, **plain)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.train_dataloader.dataset.pipeline.insert(
        2, dict(type='Bands', count=count))
    return cfg


@pytest.mark.parametrize('count', [1, 4])
@pytest.mark.parametrize('is_swapped', [False, True])
def test_any_number_of_channels(tmp_path, compared, count, is_swapped):
    mean, std = 90., 40.
    cfg = banded(tmp_path, count, dict(
        mean=[mean], std=[std], bgr_to_rgb=is_swapped))
    cfg.train_dataloader.dataset.pipeline = [
        step for step in cfg.train_dataloader.dataset.pipeline
        if step['type'] != 'RandomFlip']
    looked = []

    class Look(Hook):

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            for other in runner.hooks:
                run = getattr(other, 'run', None)
                if run is not None:
                    looked.append(run.teachers['teacher'].model)

    runner = tiny_runs.build(cfg)
    runner.register_hook(Look())
    runner.train()
    images = torch.stack([torch.from_numpy(image).permute(2, 0, 1)
                          for image in tiny_runs.Bands.seen[-2:]]).float()
    expected = looked[0].backbone.stem[0]((images - mean) / std)
    assert torch.allclose(compared[-1][1], expected, atol=1e-4)


def test_unlabelled_images_of_any_number_of_channels(tmp_path):
    """One mean is that of all channels: the hosts take one or three."""
    cfg = banded(tmp_path, 4, dict(mean=[90.], std=[40.]))
    loader = cfg.train_dataloader
    cfg.custom_hooks[0].losses = dict(loss_x=dict(
        type='NFDLoss', source='backbone[3]'))
    cfg.custom_hooks[0].unlabelled = dict(dataloader=dict(
        batch_size=2, dataset=loader.dataset))
    assert values(train(cfg)[-1])['x_unlabelled'] > 0


def test_unequal_numbers_of_channels_are_the_users_choice(tmp_path, compared):
    rgb = dict(channels=3, mean=[9.] * 3, std=[8.] * 3, bgr_to_rgb=True)
    with pytest.raises(ConfigError, match='channels') as error:
        train(banded(tmp_path, 4, dict(rgb)))
    assert 'teacher.channels' in str(error.value)
    train(banded(tmp_path, 4, dict(rgb), channels=[0, 1, 2]))
    assert len(compared) > 1


@pytest.mark.parametrize('divisor, size, logits', [
    (16, 32, 4), (32, 32, 4), (128, 32, 4), (32, 48, 6), (128, 40, 5)])
def test_a_teacher_of_multiples_of_a_size(tmp_path, compared, divisor, size,
                                          logits):
    """Its levels are cut to what covers the student's input."""
    teacher = tiny_runs.teacher(size=None, size_divisor=divisor, test_cfg=dict(
        size_divisor=divisor))
    cfg = tiny_runs.config(tmp_path, hook(teacher, x=dict(
        type='Compared', source='logits')), iters=1)
    cfg.model.data_preprocessor.size = (size, size)
    cfg.train_dataloader.dataset.size = size
    train(cfg)
    for student, theirs in compared:
        assert student.shape[2:] == theirs.shape[2:] == (logits, logits)


def test_a_teacher_that_must_be_padded(compared):
    """UNet halves its input four times and refuses what is left over."""
    unet = SEGMENTORS['unet'].model()
    unet['data_preprocessor']['test_cfg'] = dict(size_divisor=16)
    student = copy.copy(SEGMENTORS['fcn'])
    object.__setattr__(student, 'size', 40)
    hosts_table.train(student, hook(random_teacher(unet), kd=KD, x=dict(
        type='Compared', source='logits')))
    assert {tuple(t.shape[2:]) for _, t in compared} == {(5, 5)}


def test_a_teacher_of_one_size(compared):
    """A BEiT for 64 x 64 teaches a student of another size."""
    beit = SEGMENTORS['beit']
    student = copy.copy(SEGMENTORS['fcn'])
    object.__setattr__(student, 'size', 96)
    steps = hosts_table.train(student, hook(
        random_teacher(beit.model()), kd=KD,
        x=dict(type='Compared', source='logits')))
    assert values(steps[-1])['kd'] > 0
    assert {tuple(t.shape[2:]) for _, t in compared} == {(12, 12)}


@pytest.mark.parametrize('memory', [
    dict(type='Brighter'), dict(
        type='CachedMosaic', img_scale=(64, 64), max_cached_images=5,
        random_pop=True), dict(
        type='CachedMixUp', img_scale=(64, 64), max_cached_images=5,
        ratio_range=(1.0, 1.0))], ids=lambda cfg: cfg['type'])
def test_transforms_with_a_memory(tmp_path, memory):
    """The student sees the same batches with and without distillation."""
    shipped = Shipped('mmdet', DETECTORS['fcos'].config, transforms=(
        memory, dict(type='Resize', scale=(64, 64), keep_ratio=False)))

    class Digest(Hook):

        def __init__(self):
            self.seen = []

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            self.seen += [image.clone() for image in data_batch['inputs']]

    plain, distilled = Digest(), Digest()
    for digest, hooks in ((plain, []), (distilled, [hook(EMA, kd=KD)])):
        runner = tiny_runs.build(shipped_heads.config(
            tmp_path, shipped, *hooks, iterations=4))
        runner.register_hook(digest)
        runner.train()
    assert len(plain.seen) == len(distilled.seen) == 8
    for one, other in zip(plain.seen, distilled.seen):
        assert torch.equal(one, other)


# -- features -----------------------------------------------------------------


@pytest.mark.parametrize('ratio', [0., 0.1])
@pytest.mark.parametrize('head', ['danet', 'encnet', 'fcn'])
def test_features_do_not_depend_on_a_dropout(compared, head, ratio):
    shipped = SEGMENTORS[head]
    model = shipped.model()
    model['decode_head']['dropout_ratio'] = ratio
    other = copy.copy(shipped)
    object.__setattr__(other, 'model', lambda divisor=8: copy.deepcopy(model))
    hosts_table.train(other, hook(random_teacher(model), x=dict(
        type='Compared', source='features')))
    assert len(compared) == 3  # one level: in the rehearsal and two steps


# -- models that do not run as others do --------------------------------------


@pytest.mark.parametrize('shipped', [
    SEGMENTORS['pointrend'], SEGMENTORS['maskformer'],
    SEGMENTORS['mask2former'], DETECTORS['mask2former'],
    DETECTORS['condinst'], DETECTORS['boxinst'], DETECTORS['ga_retinanet']],
    ids=lambda shipped: shipped.config.partition('/')[0])
def test_teachers_that_cannot_run_to_their_end(shipped):
    """For a stage of the backbone, and their average for class scores."""
    teachers = dict(
        frozen=random_teacher(shipped.model(), shipped.host), average=EMA)
    steps = hosts_table.train(shipped, hook(
        teachers, stage=dict(type='NFDLoss', source=dict(
            student='backbone[2]', teacher='frozen:backbone[2]')),
        kd=dict(KD, source=dict(student='logits', teacher='average:logits'))))
    assert values(steps[-1])['stage'] > 0
    assert values(steps[-1])['kd'] > -1e-6  # of nearly the same weights


@pytest.mark.parametrize('head', ['tood', 'yolox'])
def test_heads_that_ask_for_the_time(head):
    shipped = DETECTORS[head]
    teachers = dict(
        frozen=random_teacher(shipped.model(), 'mmdet'), average=EMA)
    steps = hosts_table.train(shipped, hook(teachers, **{
        name: dict(KD, source=dict(student='logits', teacher=f'{name}:logits'))
        for name in teachers}))
    assert values(steps[-1])['frozen'] > 0
    assert values(steps[-1])['average'] > -1e-6  # of nearly the same weights


def test_batches_of_several_branches_are_refused_by_name(tmp_path):
    path = 'soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_'
    branches = ['sup', 'unsup_teacher', 'unsup_student']
    cfg = shipped_heads.config(
        tmp_path, Shipped('mmdet', f'{path}semi-0.1-coco.py'),
        hook(EMA, nfd=dict(type='NFDLoss', source='student.neck')))
    cfg.train_dataloader.dataset.pipeline[-1] = dict(
        type='MultiBranch', branch_field=branches,
        **{name: dict(type='PackDetInputs') for name in branches})
    with pytest.raises(ConfigError) as error:
        train(cfg)
    for name in ('model.data_preprocessor', 'unsup_teacher', 'SoftTeacher'):
        assert name in str(error.value)


@pytest.mark.parametrize('head', ['ddrnet', 'pidnet'])
@pytest.mark.parametrize('method', ['FRSKD', 'MixSKD'])
def test_heads_with_losses_of_several_maps(head, method):
    step = hosts_table.train(
        SEGMENTORS[head], hosts_table.METHODS[method](SEGMENTORS[head]))[-1]
    own = [value for name, value in step.items()
           if 'distill' in name and 'teacher' in name and 'loss' in name]
    assert own and min(own) > 0


@pytest.mark.parametrize('head', ['ddrnet', 'pidnet'])
def test_the_last_map_of_a_backbone_that_gives_one_in_eval_mode(head):
    step = hosts_table.train(
        SEGMENTORS[head], hosts_table.METHODS['AttnFD'](SEGMENTORS[head]))[-1]
    assert values(step)['attnfd'] > 0


@pytest.mark.parametrize('head', ['sparse_rcnn', 'queryinst'])
def test_proposals_that_are_noise_before_the_start(head):
    shipped = DETECTORS[head]
    for teacher in (random_teacher(shipped.model(4), 'mmdet'), EMA):
        step = hosts_table.train(shipped, hook(teacher, nfd=dict(
            type='NFDLoss', source='neck')))[-1]
        assert values(step)['nfd'] >= 0


@pytest.mark.parametrize('head', ['rtmdet_ins', 'condinst', 'solo'])
def test_losses_that_change_the_samples(head):
    step = hosts_table.train(
        DETECTORS[head], hosts_table.METHODS['FRSKD'](DETECTORS[head]))[-1]
    assert values(step)['at'] > 0


@pytest.mark.parametrize('loss', ['PairwiseLoss', 'NFDLoss', 'ICSDLoss'])
def test_a_loss_that_is_constant_on_one_position(tmp_path, loss):
    source = 'logits' if loss == 'ICSDLoss' else 'backbone[3]'
    cfg = tiny_runs.config(tmp_path, hook(tiny_runs.teacher(), x=dict(
        type=loss, source=source)))
    cfg.model.backbone.update(strides=(2, 2, 2, 2))
    cfg.custom_hooks[0].teacher.config.model.backbone.update(
        strides=(2, 2, 2, 2))
    with pytest.raises(ConfigError, match='losses.loss_x'):
        train(cfg)


def test_a_value_far_above_the_task_is_said_at_the_start(tmp_path):
    said = []

    class Listen(Hook):

        def before_train(self, runner):
            said.append(Path(runner.log_dir).glob('*.log'))

    shipped = DETECTORS['vfnet']
    cfg = shipped_heads.config(tmp_path, shipped, dict(
        hosts_table.METHODS['SKD'](shipped),
        losses=dict(loss_pi=dict(loss_weight=30.0))))
    runner = tiny_runs.build(cfg)
    runner.register_hook(Listen())
    runner.train()
    text = next(iter(said[0])).read_text()
    assert 'loss_pi' in text and 'times the task loss' in text
    assert 'loss_weight' in text


# -- no stricter than the host ------------------------------------------------


@pytest.mark.parametrize('extra', [
    'data_preprocessor.mean', 'ema_backbone.conv1.weight',
    'decode_head.loss_decode.class_weight', 'backbone.total_ops'])
def test_harmless_extras_of_a_teacher_file(tmp_path, extra):
    model = MODELS.build(dict(tiny_runs.model(8), _scope_='mmseg'))
    torch.save(dict(state_dict=dict(
        model.state_dict(), **{extra: torch.zeros(3)})), tmp_path / 't.pth')
    steps = train(tiny_runs.config(tmp_path, hook(tiny_runs.teacher(
        checkpoint=str(tmp_path / 't.pth')), kd=KD)))
    assert values(steps[-1])['kd'] > 0


@pytest.mark.parametrize('head', ['solo', 'decoupled_solo', 'solov2'])
def test_detectors_without_a_box_head(head):
    steps = hosts_table.train(DETECTORS[head], hook(EMA, kd=KD))
    assert values(steps[-1])['kd'] > 0
    with pytest.raises(ConfigError, match='SOLO'):
        hosts_table.train(DETECTORS[head], hook(
            EMA, box=dict(type='ValueLoss', source='boxes')))


def test_a_head_of_two_branches_has_its_regions_once():
    shipped = DETECTORS['double_heads']
    steps = hosts_table.train(shipped, hook(
        random_teacher(shipped.model(4), 'mmdet'), kd=KD))
    assert values(steps[-1])['kd'] > 0


def test_the_source_that_a_cascade_teacher_needs_is_in_the_message():
    student, teacher = DETECTORS['faster_rcnn'], DETECTORS['cascade']
    theirs = random_teacher(teacher.model(), 'mmdet')
    with pytest.raises(ConfigError) as error:
        hosts_table.train(student, hook(theirs, kd=KD))
    source = next(iter(hosts_table.suggestions(
        str(error.value).replace('; write ', '; '))))['source']
    steps = hosts_table.train(student, hook(theirs, kd=dict(
        KD, source=source)))
    assert values(steps[-1])['kd'] > 0


def test_a_message_names_paths_that_exist():
    with pytest.raises(ConfigError) as error:
        hosts_table.train(SEGMENTORS['ocrnet'], hook(
            EMA, kd=dict(KD, source='depth')))
    assert 'decode_head.1.' in str(error.value)
