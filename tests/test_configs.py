"""Every shipped config makes a training step; every list of them agrees."""
import ast
import copy
import functools
import re
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.fileio import load
from mmengine.hooks import Hook
from mmengine.registry import (
    DATASETS,
    HOOKS,
    MODELS,
    TRANSFORMS,
    init_default_scope,
)
from mmengine.runner import Runner

from mmselfkd.datasets.toy_det import ToyDetDataset
from mmselfkd.hooks import DistillHook
from mmselfkd.taps import Tap
from mmselfkd.teachers import FrozenTeacher

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(
    path.relative_to(ROOT) for path in ROOT.glob('configs/*/*.py')
    if path.parent.name != '_base_')
METHODS = ('aicsd', 'attnfd', 'cirkd', 'cwd', 'dist', 'fgd', 'fitnets',
           'frskd', 'icsd', 'ifvd', 'ka_dtd', 'ld', 'mgd', 'mixskd', 'nfd',
           'pkd', 'skd', 'srd', 'tfd')
NOT_MEASURED = ('attnfd', 'cirkd', 'cwd', 'dist', 'fgd', 'fitnets', 'ifvd',
                'ld', 'mgd', 'pkd', 'srd')  # no results yet
NO_SEGMENTORS = ('fgd', 'ld', 'pkd')
NO_DETECTORS = (
    *(method for method in NOT_MEASURED if method not in NO_SEGMENTORS),
    'mixskd')
SMALL_DATA = ('_camvid-', '_bccd-')  # trained on a CPU, with results
PAIRS = sorted(ROOT.glob('configs/_base_/pairs/*.py'))
SIDE = 64
NARROWER = 8  # the big detectors keep their layers, not their channels
CHANNELS = ('in_channels', 'out_channels', 'feat_channels', 'num_classes')


@pytest.fixture(scope='module', autouse=True)
def lists_read_once():
    """mmengine reads all lists of a host for every name such as mmdet::."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            'mmengine.config.utils.load', functools.lru_cache(None)(load))
        yield


@DATASETS.register_module()
class MemoryDataset:
    """Two random images that go through the config's own pipeline."""

    def __init__(self, pipeline, num_classes):
        self.metainfo = dict(classes=[str(i) for i in range(num_classes)])
        self.pipeline = Compose(pipeline)
        rng = np.random.default_rng(0)
        shape = (2, SIDE, SIDE)
        self.images = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        self.labels = rng.integers(0, num_classes, shape, dtype=np.uint8)
        self.depths = rng.uniform(1, 9, shape).astype(np.float32)

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.pipeline(
            dict(
                img=self.images[index].copy(),
                gt_seg_map=self.labels[index].copy(),
                gt_depth_map=self.depths[index].copy(),
                img_shape=(SIDE, SIDE),
                ori_shape=(SIDE, SIDE),
                img_path=str(index),
                reduce_zero_label=False,
                seg_fields=['gt_seg_map', 'gt_depth_map'],
                sample_idx=index))


class Witness(Hook):
    """Keeps the teacher and its weights before the first iteration."""

    def __init__(self, hook):
        self.hook = hook

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 0:
            self.terms = [term.name for term in self.hook.run.terms]
            self.teacher, = self.hook.run.teachers.values()
            self.network = self.teacher.module or getattr(
                self.teacher, 'model', None)  # of its own, if it has one
            self.before = self.weights()

    def weights(self):
        if self.network is None:
            return {}
        state = self.network.state_dict()
        return {name: value.clone() for name, value in state.items()}


def without_downloads(cfg):
    """``cfg`` without the pretrained weights anywhere in it."""
    if isinstance(cfg, dict):
        for key in ('pretrained', 'init_cfg'):
            if key in cfg:
                cfg[key] = None
        for value in cfg.values():
            without_downloads(value)
    elif isinstance(cfg, (list, tuple)):
        for value in cfg:
            without_downloads(value)
    return cfg


def loaded(path):
    """The config in this file; it may be changed."""
    return copy.deepcopy(_loaded(path))


def inheriting(base):
    """A user's config that has one base and nothing else."""
    return copy.deepcopy(_inheriting(base))


@functools.cache
def _loaded(path):
    return Config.fromfile(path)


@functools.cache
def _inheriting(base):
    return Config.fromstring(f'_base_ = {base!r}', '.py')


def first_dataset(cfg):
    """The training data set, the first one where several are joined."""
    dataset = cfg.train_dataloader.dataset
    return dataset.datasets[0] if 'datasets' in dataset else dataset


def narrowed(cfg):
    """The model of ``cfg`` with all its layers and few channels."""
    def walk(value, key=None):
        if isinstance(value, dict):
            return {k: walk(v, k) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [walk(v, key) for v in value]
        return value // NARROWER if key in CHANNELS else value

    model = walk(cfg.model.to_dict())
    model['backbone']['base_channels'] = 64 // NARROWER
    return model


def small(name, work_dir):
    """The config, but on small images in memory and for few iterations."""
    cfg = loaded(ROOT / name)
    is_detector = cfg.default_scope == 'mmdet'
    is_big = is_detector and name.stem.endswith('_coco')
    if is_big:
        cfg.model = narrowed(cfg)
    without_downloads(cfg.model)
    loading = () if is_detector else (
        'LoadImageFromFile', 'LoadAnnotations', 'LoadDepthAnnotation')
    pipeline = []
    for step in first_dataset(cfg).pipeline:
        if step['type'] not in loading:
            for key in ('scale', 'crop_size', 'size', 'img_scale'):
                if key in step:
                    step[key] = (SIDE, SIDE)
            pipeline.append(step)
    if is_detector:
        classes = ToyDetDataset.METAINFO['classes'][
            :cfg.model.bbox_head.num_classes]
        dataset = dict(
            type='mmselfkd.ToyDetDataset',
            length=2,
            size=SIDE,
            metainfo=dict(classes=classes))
    else:
        cfg.model.data_preprocessor.size = (SIDE, SIDE)
        dataset = dict(
            type='mmengine.MemoryDataset',
            num_classes=cfg.model.decode_head.get('num_classes', 1))
    cfg.train_dataloader = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='pseudo_collate'),
        dataset=dict(**dataset, pipeline=pipeline))
    for stage in ('val', 'test'):
        for part in ('cfg', 'dataloader', 'evaluator'):
            cfg.pop(f'{stage}_{part}', None)
    # distillation: some weights are 0 in the first iteration
    length = 2 if 'custom_hooks' in cfg else 1
    for hook in cfg.get('custom_hooks', []):
        teacher = hook.get('teacher', {})
        if 'config' in teacher:
            teacher.checkpoint = 'random'
            if is_big:
                teacher.config = dict(
                    model=narrowed(inheriting(teacher.config)))
        for loss in filter(None, hook.get('losses', {}).values()):
            for key in ('pixel_memory', 'region_memory'):
                loss.pop(key, None)  # longer than two images fill them
        for key in ('begin', 'interval'):  # what teaches the second one
            if key in teacher:
                teacher[key] = 1
    by_epoch = 'max_epochs' in cfg.train_cfg  # an epoch is one iteration
    cfg.train_cfg = {
        'by_epoch': by_epoch,
        'max_epochs' if by_epoch else 'max_iters': length
    }
    cfg.default_hooks.checkpoint = dict(
        type='CheckpointHook', by_epoch=by_epoch, interval=length)
    cfg.default_hooks.pop('visualization', None)
    cfg.work_dir = str(work_dir)
    cfg.randomness = dict(seed=0)
    cfg.experiment_name = name.stem
    return cfg


@pytest.mark.parametrize('name', CONFIGS, ids=lambda path: path.stem)
def test_training_step(name, tmp_path, monkeypatch):
    # the log's neat text of the config would take a fifth of the time
    monkeypatch.setattr(Config, 'pretty_text', '')
    cfg = small(name, tmp_path)
    runner = Runner.from_cfg(cfg)
    hooks = [h for h in runner.hooks if isinstance(h, DistillHook)]
    assert len(hooks) == sum(
        hook.type.startswith('mmselfkd.')
        for hook in cfg.get('custom_hooks', []))
    assert hooks or name.parts[1] not in METHODS
    if hooks:
        witness = Witness(hooks[0])
        runner.register_hook(witness)
    start = {k: v.clone() for k, v in runner.model.state_dict().items()}
    runner.train()
    scalars = runner.message_hub.log_scalars
    assert np.isfinite(scalars['train/loss'].current())
    assert any(not torch.equal(start[k], v)
               for k, v in runner.model.named_parameters())

    if hooks:
        own = [key for key in scalars if 'distill.teacher.loss' in key]
        for key in [f'train/distill.{name}' for name in witness.terms] + own:
            value = scalars[key].current()
            assert np.isfinite(value), key
            # two fresh heads nearly agree: 0 but for rounding
            is_some = value != 0 and value > -1e-6
            assert is_some or key.endswith('loss_ho'), key
        teacher, network = witness.teacher, witness.network
        assert bool(own) == (teacher.module is not None)
        after = witness.weights()
        changed = {key for key, value in witness.before.items()
                   if not torch.equal(value, after[key])}
        if isinstance(teacher, FrozenTeacher):
            assert not changed
            assert sum(p.numel() for p in network.parameters()) > sum(
                p.numel() for p in runner.model.parameters())
        elif network is not None:
            assert changed & dict(network.named_parameters()).keys()
        if network is not None and teacher.module is None:
            assert not network.training

    saved, = tmp_path.glob('*.pth')
    saved = torch.load(saved, weights_only=False)
    plain = MODELS.build(cfg.model)
    assert list(saved['state_dict']) == list(plain.state_dict())
    plain.load_state_dict(saved['state_dict'], strict=True)


@pytest.mark.parametrize('name', CONFIGS, ids=lambda path: path.stem)
def test_own_pipelines_and_reload(name, tmp_path, monkeypatch):
    """What a stock train.py dumps is the config; its transforms exist."""
    monkeypatch.setattr(  # its neat form takes most of the time
        'yapf.yapflib.yapf_api.FormatCode', lambda text, **_: (text, True))
    cfg = loaded(ROOT / name)
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()
    init_default_scope(cfg.default_scope)
    for dataset in (first_dataset(cfg), cfg.val_dataloader.dataset):
        for step in dataset.pipeline:
            TRANSFORMS.build(step)


@pytest.mark.parametrize(
    'name', [p for p in CONFIGS if '-semi_' in p.stem], ids=lambda p: p.stem)
def test_semi_keeps_the_labels_of_one_image_in_eight(name, tmp_path):
    pipeline = first_dataset(loaded(ROOT / name)).pipeline
    types = [step['type'] for step in pipeline]
    place = types.index('mmselfkd.KeepLabels')
    assert types[place - 1] == 'LoadAnnotations'

    cfg = small(name, tmp_path)
    assert cfg.model.decode_head.loss_decode.avg_non_ignore
    dataset = Runner.from_cfg(cfg).train_dataloader.dataset
    kept, dropped = (
        dataset[i]['data_samples'].gt_sem_seg.data for i in range(2))
    assert (kept != 255).any()
    assert (dropped == 255).all()


def test_no_config_imports():
    """To mmengine 0.10.7 an import makes a config a lazy one."""
    for path in ROOT.glob('configs/**/*.py'):
        nodes = ast.walk(ast.parse(path.read_text()))
        assert not any(isinstance(node, (ast.Import, ast.ImportFrom))
                       for node in nodes), path


@pytest.mark.parametrize('method', METHODS)
def test_no_product(method):
    """One segmentor, one detector where there can be, and small ones."""
    kinds = {'segmentor': 0, 'detector': 0, 'depth': 0, 'small': 0}
    for name in CONFIGS:
        if name.parts[1] == method:
            cfg = loaded(ROOT / name)
            if any(data in name.stem for data in SMALL_DATA):
                kinds['small'] += 1
            elif cfg.default_scope == 'mmdet':
                kinds['detector'] += 1
            else:
                kinds['depth' if 'depth' in name.stem else 'segmentor'] += 1
    assert kinds.pop('small') >= 1
    assert kinds == dict(
        segmentor=method not in NO_SEGMENTORS,
        detector=method not in NO_DETECTORS, depth=method == 'skd')


@pytest.mark.parametrize('path', sorted(ROOT.glob('configs/_base_/*/*.py')),
                         ids=lambda path: path.stem)
def test_each_base_is_used(path):
    name = f'{path.parent.name}/{path.name}'
    texts = [file.read_text() for folder in ('configs', 'benchmarks')
             for file in (ROOT / folder).rglob('*.py') if file != path]
    assert any(name in text.replace("'\n    '", '') for text in texts)


@pytest.mark.parametrize('path', PAIRS, ids=lambda path: path.stem)
def test_each_pair_is_used(path):
    assert any(name.stem.endswith(f'_{path.stem}') for name in CONFIGS)


@pytest.mark.parametrize(
    'name', [p for p in CONFIGS if p.parts[1] in METHODS],
    ids=lambda path: path.stem)
def test_found_by_its_installed_name(name, tmp_path, monkeypatch):
    """Where the package is installed: from any folder."""
    monkeypatch.chdir(tmp_path)
    cfg = loaded(ROOT / name)
    child = inheriting(f'mmselfkd::{name.parts[1]}/{name.name}')
    assert child.keys() == cfg.keys()
    assert child.custom_hooks[-1].pop('_scope_') == 'mmselfkd'
    assert child.custom_hooks == cfg.custom_hooks
    # what has no prefix is the host's, also where another package inherits it
    for part in (child.model, child.train_dataloader.dataset,
                 child.val_dataloader.dataset, *child.custom_hooks[:-1]):
        assert part._scope_ == cfg.default_scope


@pytest.mark.parametrize('folder', sorted({p.parts[1] for p in CONFIGS}))
def test_metafile_lists_the_folder(folder):
    path = ROOT / 'configs' / folder / 'metafile.yml'
    if folder not in METHODS and not path.exists():
        return  # plain models, for the commands of the methods
    content = yaml.safe_load(path.read_text())
    files = {
        f'configs/{folder}/{p.name}'
        for p in CONFIGS if p.parts[1] == folder
    }
    listed = [model['Config'] for model in content['Models']]
    assert sorted(listed) == sorted(files)
    for model in content['Models']:
        assert model['Name'] == Path(model['Config']).stem
        assert model['In Collection'] in [
            collection['Name'] for collection in content['Collections']]
    for collection in content['Collections']:
        assert (ROOT / collection.get('README', 'configs')).exists()


def measured():
    """Numbers of the tables of results, by the words in front of them."""
    for name in ('benchmarks/from_scratch.md',
                 'configs/toy/README.md'):
        for line in (ROOT / name).read_text().splitlines():
            if line.startswith('|'):
                yield from re.findall(r'\d+\.\d+', line)


@pytest.mark.parametrize('method', [*METHODS, 'toy'])
def test_results_were_measured(method):
    """A metafile has them for the small configs, and quotes no others."""
    path = ROOT / 'configs' / method / 'metafile.yml'
    numbers = {float(number) for number in measured()}
    for model in yaml.safe_load(path.read_text())['Models']:
        small = method == 'toy' or any(
            data in model['Name'] for data in SMALL_DATA)
        assert ('Results' in model) == (
            small and method not in NOT_MEASURED), model['Name']
        for result in model.get('Results', []):
            for value in result['Metrics'].values():
                # the tables of the toys round to one digit
                assert value in numbers or round(value, 1) in numbers


def test_model_index_lists_every_metafile():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    found = [
        str(path.relative_to(ROOT))
        for path in sorted(ROOT.glob('configs/*/metafile.yml'))]
    assert sorted(index['Import']) == found  # in the order of the README


@pytest.mark.parametrize('method', METHODS)
def test_readme_names_what_exists(method):
    text = (ROOT / 'configs' / method / 'README.md').read_text()
    links = re.findall(r'\]\((?!https?:)([^)]*\.py)\)', text)
    for link in links:
        assert (ROOT / 'configs' / method / link).is_file(), link
    assert {p.name for p in CONFIGS if p.parts[1] == method} <= set(links)
    commands = '\n'.join(re.findall(r'```shell\n(.*?)```', text, re.DOTALL))
    names = re.findall(r'(?:tools|configs)/\S+', commands)
    assert len(names) >= 5
    for name in names:
        assert (ROOT / name).is_file(), name
    for name in re.findall(r'mm(?:seg|det)::\S+', commands):
        assert Path(Config._get_cfg_path(name, '')[0]).is_file(), name
    hooks = re.findall(r'--method (\w+)', commands)
    assert hooks and all(HOOKS.get(f'mmselfkd.{hook}') for hook in hooks)
    checkpoints = re.findall(r'work_dirs/(\S+)/(\w+)_(\d+)\.pth', commands)
    assert checkpoints
    for stem, unit, length in checkpoints:
        cfg = loaded(ROOT / f'configs/{method}/{stem}.py')
        assert cfg.train_cfg[f'max_{unit}s'] == int(length)


@pytest.mark.parametrize('path', PAIRS, ids=lambda path: path.stem)
def test_teacher_of_a_pair(path):
    """Published weights, or what training its config leaves behind."""
    teacher = loaded(path).teacher
    name = Path(teacher.config.partition('::')[2])
    if teacher.checkpoint.startswith('https://'):
        assert teacher.checkpoint.endswith('.pth')
        assert teacher.checkpoint.split('/')[5] == name.parts[0]
    else:
        cfg = inheriting(teacher.config)
        assert teacher.checkpoint == (
            f'work_dirs/{name.stem}/iter_{cfg.train_cfg.max_iters}.pth')


BIG = [path for path in PAIRS if path.stem.endswith('_coco')]


@pytest.mark.parametrize('path', BIG, ids=lambda path: path.stem)
def test_big_detectors_fit(path):
    """Levels, strides and classes of the real pair; what its hooks tap."""
    cfg = loaded(path)
    init_default_scope('mmdet')
    with torch.device('meta'):  # in their full size, at no cost
        student, teacher = (
            MODELS.build(without_downloads(c.model))
            for c in (cfg, inheriting(cfg.teacher.config)))
    for hook in hooks_of_pair(path.stem):
        for loss in hook.plan.losses:
            for model, sources in ((student, loss.student_sources),
                                   (teacher, loss.teacher_sources)):
                for source in sources:
                    with ExitStack() as resources:
                        Tap(model, source.path, path.stem, resources)
    heads = [model.bbox_head for model in (student, teacher)]
    for a, b in ([head.prior_generator.strides for head in heads],
                 [head.num_base_priors for head in heads],
                 [head.cls_out_channels for head in heads]):
        assert a == b
    image = torch.zeros(1, 3, 256, 256, device='meta')
    levels = [model.extract_feat(image) for model in (student, teacher)]
    assert [x.shape[2:] for x in levels[0]] == [
        x.shape[2:] for x in levels[1]]


def hooks_of_pair(pair):
    """The hooks of all configs with this pair."""
    for name in CONFIGS:
        if name.stem.endswith(f'_{pair}'):
            yield HOOKS.build(loaded(ROOT / name).custom_hooks[-1])


@pytest.mark.parametrize('path', BIG, ids=lambda path: path.stem)
def test_teacher_of_a_big_detector_is_published(path):
    """mmdet's own list has these weights for this config."""
    teacher = loaded(path).teacher
    name = teacher.config.partition('::')[2]
    listed = Path(Config._get_cfg_path(teacher.config, '')[0]).with_name(
        'metafile.yml')
    models = yaml.safe_load(listed.read_text())['Models']
    assert teacher.checkpoint in [
        model['Weights'] for model in models
        if model['Config'] == f'configs/{name}']
