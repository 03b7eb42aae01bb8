"""Images without labels, on which only the distillation losses run."""
import copy

import numpy as np
import pytest
import tiny_detectors
import tiny_runs
from helpers import (
    NFD,
    NO_DROPOUT,
    At,
    assert_equal,
    distillation,
    interrupt,
    keep_order,
    load,
    pair,
    train,
)
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS

from mmselfkd.errors import ConfigError

KD = dict(type='KDLoss', source='logits', ignore_index=None)
HO = dict(type='HolisticLoss', source='logits', loss_weight=0.1, width=2)
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]


@TRANSFORMS.register_module()
class Pixels(BaseTransform):
    """Remembers what a pipeline gives, and draws from NumPy's generator."""
    seen = []

    def transform(self, results):
        draw = np.random.randint(2)
        self.seen.append((results['img'].sum(), draw))
        results['img'] = np.ascontiguousarray(
            results['img'][:, ::-1] if draw else results['img'])
        return results


def loader(pipeline=PIPELINE, batch_size=3, **dataset):
    return dict(batch_size=batch_size, num_workers=0, dataset=dict(
        dict(type='mmselfkd.ToySegDataset', size=32, length=5, split='test',
             pipeline=pipeline), **dataset))


def hook(losses=None, unlabelled=None, **options):
    return dict(dict(
        type='mmselfkd.DistillHook', teacher=tiny_runs.teacher(),
        losses=losses or dict(loss_kd=KD, loss_nfd=NFD),
        unlabelled=dict(dataloader=loader()) if unlabelled is None else
        unlabelled), **options)


def run(tmp_path, *args, iters=2, changes=None, **kwargs):
    return train(tiny_runs.config(
        tmp_path, hook(*args, **kwargs), iters=iters, **(changes or {})))


def test_both_parts_are_logged_and_weighted(tmp_path):
    """The parts at share 0.25 are those at 0 and at 1, in proportion."""
    parts = {}
    for share in (0., 0.25, 1.):
        _, record = run(tmp_path / str(share), iters=1, unlabelled=dict(
            dataloader=loader(), share=share), changes=NO_DROPOUT)
        parts[share], = record.entries
    for name in ('distill.loss_kd', 'distill.loss_nfd'):
        mixed, own = parts[0.25], f'{name}_unlabelled'
        assert mixed[name] == pytest.approx(0.75 * parts[0.][name], rel=1e-5)
        assert mixed[own] == pytest.approx(0.25 * parts[1.][own], rel=1e-5)
        assert mixed[own] > 0 and parts[0.][own] == parts[1.][name] == 0


def test_a_batch_sampler_has_the_endless_sampler_too(tmp_path):
    """Where the config names no sampler."""
    found = [run(tmp_path / str(i), unlabelled=dict(dataloader=dict(
        loader(), **given)))[1].entries for i, given in enumerate((
            {}, dict(batch_sampler=None), dict(batch_sampler=dict(
                type='TorchBatches', drop_last=False))))]
    assert found[0] == found[1] == found[2]


def test_share_is_that_of_the_images(tmp_path):
    found = []
    for share in (None, 0.6):  # 2 images with labels, 3 without
        given = dict(dataloader=loader())
        if share is not None:
            given['share'] = share
        found.append(run(tmp_path / str(share), unlabelled=given)[1].entries)
    assert found[0][0]['distill.loss_kd_unlabelled'] == pytest.approx(
        found[1][0]['distill.loss_kd_unlabelled'], rel=1e-6)


def test_labels_are_not_looked_at(tmp_path):
    """Of a data set with labels, right or wrong."""
    @TRANSFORMS.register_module(force=True)
    class Wrong(BaseTransform):
        def transform(self, results):
            results['gt_seg_map'][:] = 255
            return results

    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    pack = [dict(type='PackSegInputs')]
    found = [run(tmp_path / str(i), unlabelled=dict(
        dataloader=loader(pipeline)))[1].entries for i, pipeline in enumerate(
            (PIPELINE, load + pack, load + [dict(type='Wrong')] + pack))]
    for entries in found[1:]:
        assert [e['distill.loss_nfd_unlabelled'] for e in entries] == [
            e['distill.loss_nfd_unlabelled'] for e in found[0]]


def test_the_student_sees_its_own_batches_as_without(tmp_path):
    """At share 0 the student trains as if there were no such images."""
    flips = [*PIPELINE[:1], dict(type='RandomFlip', prob=0.5), *PIPELINE[1:]]
    saved = []
    for name in ('with', 'without'):
        cfg = tiny_runs.config(tmp_path / name, hook(unlabelled=dict(
            dataloader=loader(flips), share=0.)), iters=3)
        if name == 'without':
            del cfg.custom_hooks[0]['unlabelled']
        train(cfg)
        saved.append(load(tmp_path / name, 3)['state_dict'])
    assert_equal(*saved)


def test_running_statistics_take_in_both_batches(tmp_path):
    means = []
    for share in (0., 0.5):
        runner, _ = run(tmp_path / str(share), iters=1, unlabelled=dict(
            dataloader=loader(), share=share),
            changes={'optim_wrapper.optimizer.lr': 0.})
        means.append({k: v for k, v in runner.model.state_dict().items()
                      if k.endswith('num_batches_tracked')})
    alone, both = (x['backbone.stem.1.num_batches_tracked'] for x in means)
    assert (alone, both) == (1, 2)


def test_two_and_two_are_four(tmp_path):
    """The same images, drawn alike, with a discriminator and EMA."""
    pipeline = [*PIPELINE[:1], dict(type='Pixels'), *PIPELINE[1:]]
    cfg = tiny_runs.config(tmp_path, hook(
        dict(loss_nfd=NFD, loss_ho=HO), dict(dataloader=loader(pipeline))),
        dict(type='EMAHook'), iters=4)
    cfg.merge_from_dict(NO_DROPOUT)
    cfg.train_dataloader.update(
        batch_size=8, sampler=dict(type='DefaultSampler', shuffle=False))
    for step in cfg.train_dataloader.dataset.pipeline:
        if step['type'] == 'RandomFlip':
            step['prob'] = 0.
    saved, seen = [], []
    for name, stops in (('whole', False), ('resumed', True)):
        Pixels.seen.clear()
        cfg.work_dir = str(tmp_path / name)
        if stops:
            interrupt(tiny_runs.build(copy.deepcopy(cfg)), 2)
            cfg.resume = True
            seen.append(Pixels.seen[2:])
            Pixels.seen.clear()
        tiny_runs.build(copy.deepcopy(cfg)).train()
        seen.append(Pixels.seen[2:])  # without the two of the rehearsal
        saved.append(load(tmp_path / name, 4))
    for entry in ('state_dict', 'optimizer', 'ema_state_dict', 'mmselfkd'):
        assert_equal(*(one[entry] for one in saved), entry)
    whole, first, second = seen
    assert whole == first + second and len(whole) == 12


def test_a_discriminator_sees_both_batches(tmp_path):
    seen = []

    def after(runner, **_):
        seen.extend((share, len(image)) for share, _, image in
                    trainer(runner)._seen)

    def trainer(runner):
        return distillation(runner).discriminators['loss_ho']

    train(tiny_runs.config(tmp_path, hook(dict(loss_ho=HO)), iters=1), At(
        before_train_iter=lambda runner, **_: patch(trainer(runner), after,
                                                    runner)))
    assert sorted(seen) == [(pytest.approx(0.4), 2), (pytest.approx(0.6), 3)]


def patch(trainer, look, runner):
    step = trainer.step

    def looking(*args):
        look(runner)
        return step(*args)

    trainer.step = looking


def test_losses_that_need_labels_take_the_labelled_images(tmp_path):
    losses = dict(loss_nfd=NFD, loss_kd=dict(KD, ignore_index=255))
    values, said = [], []
    for share in (0., 0.9):
        cfg = tiny_runs.config(tmp_path / str(share), hook(
            losses, dict(dataloader=loader(), share=share)), iters=1)
        _, record = train(cfg, At(before_train=lambda runner: said.append(
            '\n'.join(distillation(runner).describe()))))
        values.append(record.entries[0])
    assert values[0]['distill.loss_kd'] == pytest.approx(
        values[1]['distill.loss_kd'])
    assert 'distill.loss_kd_unlabelled' not in values[1]
    assert 'distill.loss_kd takes the labelled images alone' in said[0]


def test_the_student_teaches_itself_on_them(tmp_path):
    """The same images in both streams give both parts the same value."""
    cfg = tiny_runs.config(tmp_path, hook(
        dict(loss_nfd=dict(NFD, source=pair('backbone[2]', 'backbone[3]'))),
        teacher=dict(type='StudentAsTeacher')), **NO_DROPOUT)
    keep_order(cfg)
    cfg.custom_hooks[0].unlabelled = dict(
        dataloader=copy.deepcopy(cfg.train_dataloader), share=0.5)
    _, record = train(cfg)
    for entry in record.entries:
        assert entry['distill.loss_nfd'] > 0
        assert entry['distill.loss_nfd_unlabelled'] == pytest.approx(
            entry['distill.loss_nfd'])


@pytest.mark.parametrize('changes', [
    {'optim_wrapper.accumulative_counts': 2},
    {'model.backbone.frozen_stages': 2},
    {'custom_hooks.0.unlabelled.dataloader.num_workers': 2}])
def test_beside_what_a_runner_can(tmp_path, changes):
    _, record = run(tmp_path, changes=changes, iters=3)
    for entry in record.entries:
        assert entry['distill.loss_kd_unlabelled'] > 0


def test_epochs_of_different_lengths(tmp_path):
    """Five images a batch of three: each is seen, over and over."""
    pipeline = [*PIPELINE[:1], dict(type='Pixels'), *PIPELINE[1:]]
    Pixels.seen.clear()
    run(tmp_path, iters=5, unlabelled=dict(dataloader=loader(pipeline)))
    images = [image for image, _ in Pixels.seen[2:]]
    assert len(images) == 15
    assert {images.count(image) for image in set(images)} == {3}


@pytest.mark.parametrize('name', ['retinanet', 'faster'])
def test_detectors(tmp_path, name):
    """Single-stage, and the neck of a two-stage one."""
    cfg = tiny_detectors.config(tmp_path, name, dict(
        type='mmselfkd.DistillHook', losses=dict(loss_nfd=NFD),
        teacher=tiny_detectors.teacher(name, 16)))
    cfg.train_cfg.max_iters = 2
    data = copy.deepcopy(cfg.train_dataloader)
    data.dataset.pipeline = [
        step for step in data.dataset.pipeline
        if 'Annotations' not in step['type']]
    cfg.custom_hooks[0].unlabelled = dict(dataloader=data, share=0.5)
    _, record = train(cfg)
    for entry in record.entries:
        assert entry['distill.loss_nfd_unlabelled'] > 0


@pytest.mark.parametrize('loss', ['FGDLoss', 'LDLoss'])
def test_losses_on_boxes_take_the_labelled_images(tmp_path, loss):
    source = dict(FGDLoss='neck', LDLoss='boxes')[loss]
    cfg = tiny_detectors.config(tmp_path, 'gfl', dict(
        type='mmselfkd.DistillHook', teacher=tiny_detectors.teacher('gfl'),
        losses=dict(loss_nfd=NFD, loss_box=dict(
            type=loss, source=source, loss_weight=1e-3))))
    cfg.train_cfg.max_iters = 1
    cfg.custom_hooks[0].unlabelled = dict(
        dataloader=copy.deepcopy(cfg.train_dataloader), share=0.5)
    entry, = train(cfg)[1].entries
    assert entry['distill.loss_nfd_unlabelled'] > 0
    assert entry['distill.loss_box'] > 0
    assert 'distill.loss_box_unlabelled' not in entry


@pytest.mark.parametrize('given, message', [
    (3, 'unlabelled = 3: dict'),
    (dict(dataloader=loader(), shares=1), "shares = 1: .*nearest: 'share'"),
    (dict(dataloader=loader(), share=1.5), 'unlabelled.share must be .*1.5'),
    (dict(dataloader=loader(), share='x'), 'unlabelled.share must be'),
    (dict(share=0.5), 'unlabelled.dataloader is missing'),
    (dict(dataloader=dict(batch_size=2)), 'unlabelled.dataloader = .*dataset'),
    (dict(dataloader=dict(loader(), batch_sizes=2)), 'unlabelled.dataloader'),
    (dict(dataloader=loader(length=0)), 'unlabelled.dataloader'),
    (dict(dataloader=loader(PIPELINE[:1])), 'pipeline: gives .*PackSegInputs'),
    (dict(dataloader=loader([
        PIPELINE[0], dict(type='Grey'), PIPELINE[1]])),
     'unlabelled.dataloader'),
])
def test_errors_before_training(tmp_path, given, message):
    @TRANSFORMS.register_module(force=True)
    class Grey(BaseTransform):
        def transform(self, results):
            results['img'] = results['img'][..., :1]
            return results

    with pytest.raises(ConfigError, match=message):
        run(tmp_path, unlabelled=given)


@pytest.mark.parametrize('loss, way', [
    (dict(KD, ignore_index=255), r' \(with ignore_index=None it uses'),
    (dict(KD, ignore_index='head', adjust=dict(type='LabelSmoothing')),
     r' \(with ignore_index=None and adjust=None it uses'),
    (dict(KD, adjust=dict(type='LabelSmoothing')),
     r' \(with adjust=None it uses'),
    (dict(type='IFVDLoss', source='features'), '$')])
def test_losses_that_need_labels_alone(tmp_path, loss, way):
    """What is named is all that must change, and nothing where none helps."""
    with pytest.raises(ConfigError, match='no loss can use images without '
                       f'labels: .*loss_x needs labels{way}'):
        run(tmp_path, dict(loss_x=loss))


def test_nothing_can_be_learned(tmp_path):
    cfg = tiny_runs.config(tmp_path, dict(
        type='mmselfkd.FRSKDHook', unlabelled=dict(dataloader=loader())))
    with pytest.raises(ConfigError, match='a teacher with a loss of its own'):
        train(cfg)


def test_images_of_another_size(tmp_path):
    """Where the student takes them."""
    _, record = run(tmp_path, unlabelled=dict(dataloader=loader(size=64)),
                    changes={'model.data_preprocessor.size': None,
                             'model.data_preprocessor.size_divisor': 32})
    assert record.entries[0]['distill.loss_kd_unlabelled'] > 0


def test_it_teaches(tmp_path):
    """Nothing but these images brings the teacher's features closer."""
    _, record = run(
        tmp_path, dict(loss_nfd=dict(NFD, loss_weight=5.)),
        dict(dataloader=loader(), share=1.), iters=30, changes=NO_DROPOUT)
    values = [e['distill.loss_nfd_unlabelled'] for e in record.entries]
    assert np.mean(values[-3:]) < 0.6 * np.mean(values[:3])
