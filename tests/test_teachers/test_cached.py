"""A cached teacher: the same student as by the live one, bit for bit."""
import copy
import errno
import logging
import os
import shutil

import pytest
import tiny_runs
import torch
from helpers import (
    KD,
    NFD,
    NO_DROPOUT,
    assert_clean,
    assert_equal,
    distillation,
    interrupt,
    record,
    train,
)
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import MODELS, TRANSFORMS
from torch import nn

from mmselfkd.datasets import ToySegDataset
from mmselfkd.datasets.toy_scenes import CLASSES
from mmselfkd.errors import ConfigError
from mmselfkd.hosts import host_of
from mmselfkd.teachers import FrozenTeacher, ModelTeacher
from mmselfkd.teachers.cache_store import CacheStore

EXACT = dict(precision='fp32')


def weights(path, cfg, seed=0):
    """A file with the weights of a model that nobody trained."""
    torch.manual_seed(seed)
    model = MODELS.build(copy.deepcopy(cfg))
    model.init_weights()
    torch.save(model.state_dict(), path)
    return str(path)


def other_weights(path, seed):
    return weights(path, dict(tiny_runs.model(8), _scope_='mmseg'), seed)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Laying out a config for the log takes longer than the run."""
    monkeypatch.setattr(Config, 'pretty_text', '')


@pytest.fixture(scope='module')
def filled(tmp_path_factory):
    """The weights of a teacher, and its answers once a run has asked it."""
    home = tmp_path_factory.mktemp('filled')
    other_weights(home / 'teacher.pth', 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, 'pretty_text', '')
        train(configs(home)())
    return home


@pytest.fixture
def seg(tmp_path, filled):
    """Configs of runs with a teacher that was not asked yet."""
    shutil.copy(filled / 'teacher.pth', tmp_path)
    return configs(tmp_path)


@pytest.fixture
def again(seg, filled):
    """The same with a teacher that was asked for everything."""
    shutil.copytree(filled / 'cache', seg.dir)
    return seg


def configs(tmp_path):
    """Gives configs of runs of 2 epochs, 4 images in batches of 2."""
    path = str(tmp_path / 'teacher.pth')

    def config(cache=EXACT, views=2, losses=None, teacher=(), **changes):
        cfg = tiny_runs.config(
            tmp_path / 'run', dict(
                type='mmselfkd.DistillHook',
                teacher=dict(tiny_runs.teacher(checkpoint=path), **dict(
                    teacher)),
                losses=losses or dict(loss_kd=KD, loss_nfd=NFD)),
            iters=4, val_dataloader=None, val_evaluator=None, val_cfg=None,
            **{'default_hooks.checkpoint': None})
        cfg.train_dataloader.dataset.update(serialize_data=False, length=4)
        if cache is not None:
            cfg.custom_hooks[0].teacher.cache = dict(
                dict(dir=str(tmp_path / 'cache')), **cache)
        record(cfg, views).merge_from_dict(changes)
        return cfg

    config.weights, config.dir = path, tmp_path / 'cache'
    return config


@pytest.fixture
def log(monkeypatch):
    """What the project says in a run."""
    said = []
    monkeypatch.setattr(
        'mmselfkd.teachers.cached.print_log',
        lambda text, logger, level=logging.INFO: said.append(text))
    return said


@pytest.fixture
def asked(monkeypatch):
    """How many images each forward pass of a teacher was for."""
    counts = []
    teach = ModelTeacher.teach

    def counting(self, context, sources):
        counts.append(len(context.inputs))
        return teach(self, context, sources)

    monkeypatch.setattr(ModelTeacher, 'teach', counting)
    return counts


def entries(cfg, *hooks):
    return train(cfg, *hooks)[1].entries


def folder(seg):
    """The only cache there is."""
    found, = seg.dir.iterdir()
    return found


def files(path):
    return sorted(path.rglob('*.safetensors'))


# -- the same as live ---------------------------------------------------------


def test_a_segmentor_bit_for_bit(seg, log, asked):
    """Live, filling the cache, reading it, and by workers."""
    live = entries(seg(None))
    del asked[:]
    assert_equal(live, entries(seg()))
    assert asked == [2] * 6  # 2 of them in the rehearsal
    assert len(files(folder(seg))) == 8
    os.remove(seg.weights)
    del asked[:]
    for workers in (0, 2):
        assert_equal(live, entries(seg(**{
            'train_dataloader.num_workers': workers})))
    assert not asked
    assert 'is not there; the answers of' in log[-3]
    assert log[-1].endswith(
        '4 answers were read; the teacher was asked for none')


def test_a_detector_on_images_of_many_sizes(detectors, tmp_path, log):
    """In a batch that is padded to another size it is asked anew."""
    path = weights(tmp_path / 'fcos.pth', dict(
        detectors.model('fcos'), _scope_='mmdet'))
    losses = dict(
        loss_kd=dict(KD), loss_nfd=dict(NFD, foreground=0.5))

    def config(cache):
        teacher = detectors.teacher('fcos', checkpoint=path)
        if cache:
            teacher['cache'] = dict(EXACT, dir=str(tmp_path / 'cache'))
        return record(detectors.config(
            tmp_path / 'run', 'fcos', dict(
                type='mmselfkd.DistillHook', teacher=teacher, losses=losses),
            **{'train_cfg.max_iters': 10,
               'default_hooks.checkpoint': None}), 1)

    live = entries(config(False))
    assert_equal(live, entries(config(True)))
    assert any('of another padded size' in text for text in log)
    del log[:]
    assert_equal(live, entries(config(True)))
    assert sum(int(text.split()[1]) for text in log) == 20  # of 10 batches


def test_no_model_where_every_answer_is_there(again):
    runner, _ = train(again(), look=lambda runner: distillation(
        runner).teachers['teacher'].is_built)
    assert runner.hooks[-1].seen == [False] * 4
    assert not runner.train_dataloader.dataset.companions
    assert_clean(runner)


def test_half_precision_is_close_and_the_same_cold_and_warm(seg):
    live, cold, warm = (entries(seg(cache)) for cache in (None, {}, {}))
    assert_equal(cold, warm)
    assert live != cold
    for one, other in zip(live, cold):
        assert abs(one['loss'] - other['loss']) < 1e-3 * one['loss']
    name = files(folder(seg))[0].name
    half = CacheStore(folder(seg)).read((0, 0), (32, 32))
    assert name == '0-0-32x32.safetensors'
    assert {x.dtype for x in half.tensors.values()} == {torch.float16}
    assert CacheStore(folder(seg)).meta()['made_with'] == dict(
        torch=torch.__version__, device='cpu')  # for who looks into it


@pytest.mark.parametrize('cache, images', [(EXACT, 2), ({}, 1)])
def test_where_a_part_is_there(seg, asked, cache, images):
    """In 'fp32' batches stay whole; and what cannot be read is made anew."""
    whole = entries(seg(cache))
    paths = files(folder(seg))
    for path in paths[:6:2]:
        os.remove(path)
    paths[-1].write_bytes(paths[-1].read_bytes()[:-10])
    del asked[:]
    same = entries(seg(cache))
    assert min(asked[2:]) == images
    del asked[:]
    read = entries(seg(cache))
    assert not asked and len(files(folder(seg))) == 8
    assert_equal(same, read)
    if cache is EXACT:
        assert_equal(whole, same)
    for one, other in zip(whole, same):
        assert one['loss'] == pytest.approx(other['loss'], rel=1e-4)


def test_resumed_in_the_middle_of_an_epoch(seg):
    whole = entries(seg(None, **NO_DROPOUT))
    configs = [seg(**NO_DROPOUT) for _ in range(2)]
    for cfg in configs:
        cfg.default_hooks.checkpoint = dict(
            type='CheckpointHook', interval=1, by_epoch=False)
    interrupt(tiny_runs.build(configs[0]), 3)
    configs[1].resume = True
    assert_equal(whole[3:], entries(configs[1]))
    assert len(files(folder(seg))) == 8


def test_several_teachers_each_its_own(seg, tmp_path):
    other = other_weights(tmp_path / 'other.pth', 1)

    def config(cache):
        cfg = seg(cache, losses=dict(
            loss_kd=dict(KD, source=dict(
                student='logits', teacher='first:logits')),
            loss_nfd=dict(NFD, source=dict(
                student='features', teacher='second:features'))))
        hook = cfg.custom_hooks[0]
        hook.teacher = dict(first=hook.teacher, second=dict(
            copy.deepcopy(hook.teacher), checkpoint=other))
        return cfg

    live = entries(config(None))
    for _ in range(2):
        assert_equal(live, entries(config(EXACT)))
    assert len(list(seg.dir.iterdir())) == 2


def test_what_needs_the_model_beside_its_answers(seg):
    """The classifier, and weights to start with."""
    losses = dict(loss_srd=dict(type='SRDLoss', source='features'))
    live = entries(seg(None, losses=losses))
    for _ in range(2):
        assert_equal(live, entries(seg(losses=losses)))
    changes = dict(custom_hooks=[dict(
        seg().custom_hooks[0], inherit='decode_head',
        losses=dict(loss_kd=KD))])
    cfg = seg(**dict(changes, model=tiny_runs.model(8)))
    entries(cfg)
    runner, _ = train(cfg, look=lambda runner: distillation(
        runner).teachers['teacher'].model)
    teacher = runner.hooks[-1].seen[0].decode_head.conv_seg.weight
    assert not teacher.requires_grad
    assert torch.allclose(
        runner.model.decode_head.conv_seg.weight, teacher, atol=0.05)


class Ensemble(nn.Module):
    """Several models, of which the mean of the class scores is taken."""

    def __init__(self, members):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.mean = nn.Identity()

    def forward(self, inputs):
        return self.mean(torch.stack([
            member(inputs, mode='tensor') for member in self.members]).mean(0))


class EnsembleTeacher(ModelTeacher):

    def __init__(self, members):
        models = [FrozenTeacher(**member).model for member in members]
        super().__init__(
            Ensemble(models), host_of(models[0]).input_format(models[0]))


def test_a_teacher_of_ones_own(seg, tmp_path, asked):
    paths = [other_weights(tmp_path / f'{i}.pth', i) for i in range(2)]
    losses = dict(loss_kd=dict(
        KD, source=dict(student='logits', teacher='mean'),
        activation='softmax'))

    def config(cache):
        cfg = seg(cache, losses=losses)
        hook = cfg.custom_hooks[0]
        hook.teacher = dict(
            type=EnsembleTeacher, members=[
                tiny_runs.teacher(checkpoint=path) for path in paths],
            **({} if cache is None else dict(cache=hook.teacher.cache)))
        return cfg

    live = entries(config(None))
    assert_equal(live, entries(config(EXACT)))
    for path in paths:
        os.remove(path)
    del asked[:]
    assert_equal(live, entries(config(EXACT)))
    assert not asked


# -- what an answer depends on ------------------------------------------------


CHANGES = dict(
    weights=lambda cfg, teacher, seg: other_weights(seg.weights, 1),
    teacher=lambda cfg, teacher, seg: teacher.update(precision='bf16'),
    sources=lambda cfg, teacher, seg: cfg.custom_hooks[0].losses.pop(
        'loss_nfd'),
    **{f'student_input.{name}': lambda cfg, teacher, seg, change={
        f'model.data_preprocessor.{name}': value}: cfg.merge_from_dict(change)
        for name, value in dict(
            mean=[0., 0., 0.], std=[1., 1., 1.], bgr_to_rgb=False,
            pad_val=7).items()},
    data=lambda cfg, teacher, seg: cfg.merge_from_dict({
        'train_dataloader.dataset.dataset.pipeline.2.prob': 0.25}),
    views=lambda cfg, teacher, seg: cfg.merge_from_dict({
        'train_dataloader.dataset.views': 3}),
    seed=lambda cfg, teacher, seg: cfg.merge_from_dict({
        'train_dataloader.dataset.seed': 1}),
    precision=lambda cfg, teacher, seg: teacher.cache.update(
        precision='fp16'),
    top_k=lambda cfg, teacher, seg: (
        teacher.cache.update(top_k=2),
        cfg.custom_hooks[0].losses.pop('loss_nfd')))


@pytest.mark.parametrize('part', CHANGES)
def test_another_folder_where_it_differs(again, part):
    cfg = again()
    CHANGES[part](cfg, cfg.custom_hooks[0].teacher, again)
    cfg.train_cfg.max_iters = 1
    _, logs = train(cfg, look=lambda runner: list(
        distillation(runner).describe())[1])
    named = {'views': 'data', 'seed': 'data', 'top_k': 'sources, top_k'}
    assert ': 2 of ' in logs.seen[0]
    assert f'with other {named.get(part, part.split(".")[0])}' in logs.seen[0]
    assert len(list(again.dir.iterdir())) == 2


def test_the_same_folder_where_only_names_differ(again, tmp_path, asked):
    moved = tmp_path / 'moved.pth'
    os.rename(again.weights, moved)
    del asked[:]
    entries(again(dict(EXACT, limit=None), teacher=dict(
        checkpoint=str(moved))))
    assert not asked and folder(again)


@pytest.mark.parametrize('seeds, folders', [((5, 5), 1), ((5, 6), 2)])
def test_weights_that_are_in_no_file(seg, seeds, folders):
    """Those of an untrained teacher, which follow from the seed of the run."""
    for seed in seeds:
        entries(seg(teacher=dict(checkpoint='random'), **{
            'randomness.seed': seed}))
    assert len(list(seg.dir.iterdir())) == folders


def test_another_folder_where_the_data_have_grown(again, monkeypatch):
    """Sample 0 is another one, though the config is the same."""
    load = ToySegDataset.load_data_list
    monkeypatch.setattr(ToySegDataset, 'load_data_list', lambda self: [
        *load(self)[-1:], *load(self)])
    live = entries(again(None))
    assert_equal(live, entries(again()))
    assert len(list(again.dir.iterdir())) == 2


def test_mixed_precision_has_its_own(again, monkeypatch):
    """Here on a CPU, where mmengine's own check for a GPU is passed over."""
    monkeypatch.setattr(
        amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    amp = {'optim_wrapper.type': 'AmpOptimWrapper',
           'optim_wrapper.loss_scale': 1.,
           'optim_wrapper.dtype': 'bfloat16'}
    live = entries(again(None, **amp))
    for _ in range(2):
        assert_equal(live, entries(again(**amp)))
    assert len(list(again.dir.iterdir())) == 2


# -- bad input ----------------------------------------------------------------


@TRANSFORMS.register_module()
class Brighten(BaseTransform):
    """An image file that somebody has changed."""

    by = 0

    def transform(self, results):
        if results['sample_idx'] == 3:
            results['img'] = results['img'] + Brighten.by
        return results


def test_a_changed_image_is_named(seg, monkeypatch):
    def config():
        cfg = seg()
        cfg.train_dataloader.dataset.dataset.pipeline.insert(
            1, dict(type='Brighten'))
        return cfg

    entries(config())
    monkeypatch.setattr(Brighten, 'by', 3)
    with pytest.raises(RuntimeError, match=r'sample 3 in view 0 \(toy://train'
                       '/0/32/00003.png. has other pixels than when its'):
        entries(config())


def test_a_limit(seg, log):
    live = entries(seg(None))
    assert_equal(live, entries(seg(dict(EXACT, limit='5KB'))))
    told = [text for text in log if 'the limit of 5.0 KB is reached' in text]
    assert len(told) == 1
    stored = files(folder(seg))
    assert 0 < sum(path.stat().st_size for path in stored) <= 5e3
    assert log[-1].endswith('asked for 4 could not be stored')
    assert_equal(live, entries(seg(dict(EXACT, limit='5KB'))))
    assert files(folder(seg)) == stored  # of both runs together


def test_ranks_share_the_limit(seg, monkeypatch):
    """Each stores what its share allows, here the only one of two."""
    monkeypatch.setattr(
        'mmselfkd.teachers.cached.get_world_size', lambda: 2)
    entries(seg(dict(EXACT, limit='10KB')))
    stored = [path.stat().st_size for path in files(folder(seg))]
    assert 0 < sum(stored) <= 5e3 < sum(stored) + stored[0]


def test_no_space(seg, log, monkeypatch):
    live, put = entries(seg(None)), CacheStore._put

    def full(path, content):
        if len(files(path.parent)) == 3:
            raise OSError(errno.ENOSPC, 'No space left on device')
        put(path, content)

    monkeypatch.setattr(CacheStore, '_put', staticmethod(full))
    assert_equal(live, entries(seg()))
    assert len(files(folder(seg))) == 3
    assert sum('No space left' in text for text in log) == 1


def test_a_folder_that_cannot_be_made(seg, tmp_path):
    (tmp_path / 'a_file').touch()
    path = str(tmp_path / 'a_file' / 'cache')
    with pytest.raises(ConfigError, match='DistillHook.teacher.cache.dir = '
                       f"'{path}': cannot be written: .*Not a directory"):
        entries(seg(dict(dir=path)))


def test_a_folder_that_is_read_only(again, log, monkeypatch):
    """What is there is read, the rest asked live."""
    live = entries(again(None))
    os.remove(files(folder(again))[3])
    monkeypatch.setattr('os.access', lambda path, mode: False)
    assert_equal(live, entries(again()))
    assert sum('is read only; nothing more is stored' in t for t in log) == 1
    assert len(files(folder(again))) == 7


def test_weights_that_are_not_there(again):
    os.remove(again.weights)
    with pytest.raises(ConfigError, match="teacher.pth' is not there, and of "
                       "the folders in '.*/cache' none has its answers"):
        entries(again(views=3))
    for seed in (1, 2):
        other_weights(again.weights, seed)
        entries(again())
    os.remove(again.weights)
    with pytest.raises(ConfigError, match=r'\[.*, .*, .*\] could all be its'):
        entries(again())


def test_weights_that_are_replaced_meanwhile(seg, monkeypatch):
    load = FrozenTeacher._load_weights

    def replace(self):
        load(self)
        other_weights(seg.weights, 1)

    monkeypatch.setattr(FrozenTeacher, '_load_weights', replace)
    with pytest.raises(ConfigError, match="teacher.pth' was replaced since"):
        entries(seg())
    assert not seg.dir.exists()


@pytest.mark.parametrize('cache, message', [
    ({'dir': ''}, r"cache = {'dir': '', .*dict\(dir=\.\.\.\) is needed"),
    ({'limits': 3}, "cache.limits = 3: no such option; nearest: 'limit'"),
    ({'limit': '20 cats'}, "cache.limit = '20 cats': bytes, such as '20GB'"),
    ({'limit': 0}, 'cache.limit = 0: bytes'),
    ({'limit': '1.2.3GB'}, "cache.limit = '1.2.3GB': bytes"),
    ({'precision': 'int8'}, "cache.precision must be one of 'fp16', 'fp32'"),
    ({'top_k': 0}, 'cache.top_k must be None or an integer of 1 or more'),
    ({'top_k': 7}, "cache.top_k = 7: 'logits' has 7 classes; fewer can be"),
    ({'top_k': 3, 'source': 'features'},
     "cache.top_k = 3: 'features' has no class scores under a softmax")])
def test_refuses_options(seg, cache, message):
    cache = dict(EXACT, **cache)
    source = cache.pop('source', 'logits')
    with pytest.raises(ConfigError, match=message):
        entries(seg(cache, losses=dict(loss_nfd=dict(NFD, source=source))))


def test_refuses_what_changes(seg):
    for kind, name in ((dict(type='EMATeacher'), 'EMATeacher'),
                       (dict(type='SnapshotTeacher', interval=2),
                        'SnapshotTeacher'),
                       (dict(type='SelfTeacher'), 'SelfTeacher')):
        cfg = seg()
        cfg.custom_hooks[0].teacher = dict(
            kind, cache=dict(dir=str(seg.dir)))
        with pytest.raises(ConfigError, match='DistillHook.teacher.cache: '
                           f'what a {name} teaches changes in the run'):
            entries(cfg)


def test_refuses_samples_that_do_not_come_again(seg):
    cfg = seg()
    loader = cfg.train_dataloader
    loader.dataset, loader.sampler = (
        loader.dataset.dataset, loader.sampler.sampler)
    with pytest.raises(ConfigError, match='teacher.cache: train_dataloader '
                       'gives other samples in each epoch.*FixedViews'):
        entries(cfg)


@pytest.mark.parametrize('name, source, message', [
    ('faster', 'logits', 'is asked for the RoIs that the student chooses'),
    ('detr', 'logits', r'gives no map of each image \(object queries')])
def test_refuses_what_depends_on_the_student(
        detectors, tmp_path, name, source, message):
    teacher = dict(detectors.teacher(name), cache=dict(
        dir=str(tmp_path / 'cache')))
    with pytest.raises(ConfigError, match=message):
        entries(record(detectors.config(tmp_path, name, dict(
            type='mmselfkd.DistillHook', teacher=teacher,
            losses=dict(loss_kd=dict(KD, source=source))))))


def test_refuses_images_that_are_changed_in_each_step(detectors, tmp_path):
    cfg = record(detectors.config(tmp_path, 'fcos', dict(
        type='mmselfkd.DistillHook', losses=dict(loss_kd=KD), teacher=dict(
            detectors.teacher('fcos'),
            cache=dict(dir=str(tmp_path / 'cache'))))))
    cfg.model.data_preprocessor.batch_augments = [dict(
        type='BatchSyncRandomResize', random_size_range=(32, 64))]
    with pytest.raises(ConfigError, match='batch_augments: a '
                       'BatchSyncRandomResize makes other images'):
        entries(cfg)


class Mixing(nn.Module):
    """Looks at the other images of the batch."""

    def __init__(self):
        super().__init__()
        self.mixed = nn.Identity()

    def forward(self, inputs):
        return self.mixed(inputs - inputs.mean(0))


class MixingTeacher(ModelTeacher):

    def __init__(self):
        super().__init__(Mixing())


def test_refuses_what_depends_on_the_batch(seg):
    cfg = seg(losses=dict(loss_nfd=dict(
        NFD, source=dict(student='features', teacher='mixed'))))
    cfg.custom_hooks[0].teacher = dict(
        type=MixingTeacher, cache=dict(dir=str(seg.dir)))
    with pytest.raises(ConfigError, match='gives something else for an image '
                       'where other images are in the batch'):
        entries(cfg)


# -- with what else a teacher and a run can be --------------------------------


def test_of_images_without_labels_it_is_asked_live(seg, asked):
    def config(cache):
        cfg = seg(cache, losses=dict(
            loss_kd=dict(KD, ignore_index=None), loss_nfd=NFD))
        cfg.custom_hooks[0].unlabelled = dict(dataloader=dict(
            batch_size=3, num_workers=0, dataset=dict(
                type='mmselfkd.ToySegDataset', size=32, length=5, pipeline=[
                    dict(type='LoadImageFromFile'),
                    dict(type='PackSegInputs')])))
        return cfg

    live = entries(config(None))
    assert_equal(live, entries(config(EXACT)))
    del asked[:]
    assert_equal(live, entries(config(EXACT)))
    assert set(asked) == {2, 3}  # the rehearsal, and 3 images in each step
    assert asked.count(3) == 4
    assert len(files(folder(seg))) == 8


def test_answers_by_a_class_map(seg, asked, monkeypatch):
    losses = dict(loss_kd=dict(KD, ignore_index=None))

    def config(cache, theirs):
        """``theirs``: the name of the teacher's class 1."""
        names = ['a', theirs, 'b', 'c', 'd', 'e', 'f']
        cfg = seg(cache, losses=losses)
        teacher = cfg.custom_hooks[0].teacher
        teacher.config.train_dataloader = dict(dataset=dict(
            metainfo=dict(classes=names)))
        teacher.classes = dict(map={theirs: CLASSES[3], 'f': CLASSES[0]})
        return cfg

    live = entries(config(None, 'x'))
    assert live != entries(seg(None, losses=losses))
    assert_equal(live, entries(config(EXACT, 'x')))
    del asked[:]
    assert_equal(live, entries(config(EXACT, 'x')))
    assert not asked
    entries(config(EXACT, 'y'))
    assert len(list(seg.dir.iterdir())) == 2
    # the names of the student's, which the code of the data set has
    monkeypatch.setattr(ToySegDataset, 'METAINFO', dict(
        ToySegDataset.METAINFO, classes=CLASSES[::-1]))
    assert_equal(entries(config(None, 'y')), entries(config(EXACT, 'y')))
    assert len(list(seg.dir.iterdir())) == 3


def test_names_of_a_teacher_in_another_order(seg):
    """The same model and map, but other classes have the names."""
    def config(cache, *names):
        cfg = seg(cache, losses=dict(loss_kd=dict(KD, ignore_index=None)))
        teacher = cfg.custom_hooks[0].teacher
        teacher.config.val_dataloader = dict(dataset=dict(
            metainfo=dict(classes=[*'abcde', *names])))
        teacher.classes = dict(map=dict(x=CLASSES[3], y=CLASSES[0]))
        return cfg

    for names in ('xy', 'yx'):
        assert_equal(entries(config(None, *names)),
                     entries(config(EXACT, *names)))
    assert len(list(seg.dir.iterdir())) == 2


def test_answers_of_several_teachers(seg, tmp_path, asked):
    cfg = seg()
    one = cfg.custom_hooks[0].teacher
    cache = one.pop('cache')
    other = dict(one, checkpoint=other_weights(tmp_path / 'other.pth', 1))

    def config(cache):
        cfg = seg(None, losses=dict(loss_kd=KD))
        cfg.custom_hooks[0].teacher = dict(
            type='CombinedTeacher', by='mean',
            teachers=dict(a=one, b=other), **cache)
        return cfg

    live = entries(config({}))
    assert_equal(live, entries(config(dict(cache=cache))))
    del asked[:]
    assert_equal(live, entries(config(dict(cache=cache))))
    assert not asked
    other_weights(tmp_path / 'other.pth', 2)
    entries(config(dict(cache=cache)))
    assert len(list(seg.dir.iterdir())) == 2
