import json
import os
import subprocess
import sys
from pathlib import Path

import mmseg
import pytest
import torch
import train
from mmengine.config import Config
from mmengine.registry import MODELS
from processes import free_port

CONFIG = 'mmselfkd::toy/fpn_r18-w8_1xb8-1k_toy-64x64.py'


def test_defaults(config_of):
    cfg = config_of(CONFIG)
    assert cfg.work_dir == f'work_dirs/{Path(CONFIG).stem}'
    assert cfg.launcher == 'none' and not cfg.resume
    assert cfg.optim_wrapper.type == 'OptimWrapper'


def test_flags_reach_the_config(config_of, tmp_path, monkeypatch):
    monkeypatch.setattr(train, 'get_device', lambda: 'cuda')
    cfg = config_of(CONFIG, '--amp', '--work-dir', tmp_path, '--cfg-options',
                    'train_cfg.max_iters=7', 'optim_wrapper.optimizer.lr=0.5')
    assert cfg.work_dir == str(tmp_path)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.loss_scale == 'dynamic'
    assert cfg.train_cfg.max_iters == 7
    assert cfg.optim_wrapper.optimizer.lr == 0.5


def test_resume(config_of, tmp_path):
    latest = config_of(CONFIG, '--resume')
    assert latest.resume and latest.load_from is None
    checkpoint = tmp_path / 'iter_1.pth'
    torch.save({}, checkpoint)
    given = config_of(CONFIG, '--resume', checkpoint)
    assert given.resume and given.load_from == str(checkpoint)


@pytest.fixture
def run_of_three(tmp_path):
    """A work directory with three checkpoints and the best one."""
    for name in ('iter_8', 'iter_9', 'iter_10', 'best_mIoU_iter_9'):
        torch.save(dict(meta=name), tmp_path / f'{name}.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_10.pth'))
    return tmp_path


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def test_resume_from_a_checkpoint_that_is_cut_off(config_of, run_of_three):
    """As after a full disk: the newest whole one is named."""
    flags = CONFIG, '--work-dir', run_of_three, '--resume'
    assert config_of(*flags).load_from is None
    last, before, first = (run_of_three / f'iter_{number}.pth'
                           for number in (10, 9, 8))
    cut(last)
    with pytest.raises(SystemExit, match=f"--resume: '{last}', the last check"
                       f'point, is cut off; .* whole one: --resume {before}$'):
        config_of(*flags)
    cut(before)
    with pytest.raises(SystemExit, match=f'whole one: --resume {first}$'):
        config_of(*flags)
    last.unlink()
    with pytest.raises(SystemExit, match='is not there; .*iter_8.pth$'):
        config_of(*flags)
    cut(first)
    with pytest.raises(SystemExit, match='and there is no whole one beside'):
        config_of(*flags)


def test_resume_where_nothing_was_saved(config_of, tmp_path):
    assert config_of(CONFIG, '--work-dir', tmp_path, '--resume').resume


class Attack:

    def __reduce__(self):
        return os.mkdir, ('victim', )


def test_a_start_that_would_run_code(config_of, tmp_path, monkeypatch):
    """Whoever reads it: mmengine would run it in each of these places."""
    monkeypatch.chdir(tmp_path)
    torch.save(dict(meta=Attack()), 'a.pth')
    (tmp_path / 'last_checkpoint').write_text('a.pth')
    init = 'model.backbone.init_cfg'
    for flags in (
            ['--resume', 'a.pth'], ['--cfg-options', 'load_from=a.pth'],
            ['--resume', '--work-dir', '.'],
            ['--work-dir', '.', '--cfg-options', 'resume=True'],
            ['--cfg-options', 'model.backbone.pretrained=a.pth'],
            ['--cfg-options', f'{init}.type=Pretrained',
             f'{init}.checkpoint=a.pth']):
        with pytest.raises(SystemExit, match="'a.pth' cannot be read safely.*"
                           '--trust-checkpoint reads it'):
            config_of(CONFIG, *flags)
        config_of(CONFIG, '--trust-checkpoint', *flags)
    assert not (tmp_path / 'victim').exists()


def test_amp_without_a_gpu(config_of, monkeypatch):
    monkeypatch.setattr(train, 'get_device', lambda: 'cpu')
    with pytest.raises(SystemExit, match='--amp: mixed precision needs a GPU'):
        config_of(CONFIG, '--amp')


def test_amp_refuses_other_wrappers(config_of):
    with pytest.raises(SystemExit, match='--amp.*OptimWrapperDict'):
        config_of(CONFIG, '--amp', '--cfg-options',
                  'optim_wrapper.type=OptimWrapperDict')


@pytest.mark.parametrize('name', [
    'mmseg::pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024.py',
    'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'])
def test_configs_of_the_hosts(config_of, name):
    cfg = config_of(name)
    assert cfg.default_scope == name.partition('::')[0]
    assert cfg.work_dir == f'work_dirs/{Path(name).stem}'


def test_config_by_path(root):
    path = str(root / 'configs' / 'toy' / Path(CONFIG).name)
    assert train.find_config(path) == path
    assert Path(train.find_config(CONFIG)).resolve() == Path(path)
    found = Path(train.find_config('mmseg::_base_/default_runtime.py'))
    assert Path(mmseg.__file__).parent in found.parents


@pytest.mark.parametrize('name, message', [
    (CONFIG.replace('w8', 'w9'), "no config.*w9.*nearest.*'?fpn_r18-w8_"),
    ('configs/nowhere/a.py', 'no config.*nor any other'),
    ('mmnone::a/b.py', "'mmnone::a/b.py': mmnone is not installed")])
def test_missing_config(name, message):
    with pytest.raises(SystemExit, match=message):
        train.find_config(name)


def test_missing_checkpoint_names_the_nearest(config_of, tmp_path):
    (tmp_path / 'iter_100.pth').touch()
    (tmp_path / 'last_checkpoint').touch()
    with pytest.raises(SystemExit, match='iter_10.pth.*: iter_100.pth'):
        config_of(CONFIG, '--resume', tmp_path / 'iter_10.pth')
    url = 'https://example.org/a.pth'
    assert train.find_checkpoint(url) == url


def test_two_processes_without_a_gpu(root, tmp_path):
    """dist_train.sh, its resumption, and the same losses on every rank."""
    command = [
        root / 'tools' / 'dist_train.sh', CONFIG, 2, '--work-dir', tmp_path,
        '--resume', '--cfg-options', 'train_dataloader.batch_size=2',
        'train_dataloader.dataset.length=4', 'val_dataloader.dataset.length=2',
        'default_hooks.logger.interval=1', 'train_cfg.val_interval=2'
    ]
    path = os.pathsep.join([str(Path(sys.executable).parent),
                            os.environ['PATH']])
    for max_iters in (2, 3):
        done = subprocess.run(
            [str(part) for part in command] +
            [f'train_cfg.max_iters={max_iters}'], capture_output=True,
            text=True,
            env={**os.environ, 'PATH': path, 'PORT': str(free_port())})
        assert done.returncode == 0, done.stderr
        logs = [log.read_text() for log in sorted(tmp_path.glob('*/*.log'))]
        assert len(logs) == max_iters - 1
    assert 'Distributed launcher: pytorch' in logs[0]
    records = [
        json.loads(line) for file in sorted(tmp_path.glob('*/*/scalars.json'))
        for line in file.read_text().splitlines()
    ]
    assert [r['step'] for r in records if 'loss' in r] == [1, 2, 3]
    assert [r['step'] for r in records if 'mIoU' in r] == [2, 3]
    assert (tmp_path / 'iter_3.pth').is_file()


DISTILLED = """
_base_ = '{base}'
custom_imports = dict(imports=['mmselfkd'], allow_failed_imports=False)
custom_hooks = [
    dict(
        type='mmselfkd.DistillHook',
        teacher=dict(
            big=dict(config='{teacher}', checkpoint='random'),
            refined=dict(type='SelfTeacher')),
        losses=dict(
            loss_nfd=dict(type='NFDLoss', source=dict(
                student='features', teacher='big:features')),
            loss_ho=dict(type='HolisticLoss', source=dict(
                student='logits', teacher='big:logits')),
            loss_at=dict(type='ATLoss', source=dict(
                student='backbone', teacher='refined:neck'))))
]
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(length=8))
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(length=2))
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1))
"""


def test_plain_torchrun_distils_on_two_processes(root, tmp_path):
    """And resumes; the checkpoint is a stock student's."""
    toy = root / 'configs' / 'toy'
    config = tmp_path / 'distilled.py'
    config.write_text(DISTILLED.format(
        base=toy / Path(CONFIG).name,
        teacher=toy / 'fpn_r18-w32_1xb8-1k_toy-64x64.py'))
    command = [
        sys.executable, '-m', 'torch.distributed.run', '--standalone',
        '--nproc_per_node=2', root / 'tools' / 'train.py', config,
        '--launcher', 'pytorch', '--work-dir', tmp_path, '--resume']
    for flags in [], ['--cfg-options', 'train_cfg.max_iters=3']:
        done = subprocess.run(
            [str(part) for part in command + flags], capture_output=True,
            text=True, env={**os.environ, 'CUDA_VISIBLE_DEVICES': '',
                            'PYTHONPATH': str(root)})
        assert done.returncode == 0, done.stderr
    log = done.stdout + done.stderr
    assert 'loss_ho, loss_nfd, refined: goes on where it was\n' in log
    saved = torch.load(tmp_path / 'iter_3.pth', weights_only=False)
    cfg = Config.fromfile(toy / Path(CONFIG).name)
    plain = MODELS.build(dict(cfg.model, _scope_='mmseg'))
    assert list(saved['state_dict']) == list(plain.state_dict())
    plain.load_state_dict(saved['state_dict'], strict=True)
    assert {'loss_nfd.adapters.0.weight',
            'refined.decode_head.conv_seg.weight'} < set(
                saved['mmselfkd']['modules'])
    assert 'loss_ho' in saved['mmselfkd']['discriminators']


def test_slurm_gets_the_command(root, tmp_path):
    """By an srun that says what it was given."""
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$PPID" "$@"\n')
    srun.chmod(0o755)
    done = subprocess.run(
        ['bash', str(root / 'tools' / 'slurm_train.sh'), 'gpu', 'job', CONFIG,
         '--amp', '--cfg-options', 'a=1'], capture_output=True, text=True,
        check=True, env={
            **os.environ, 'PATH': f'{tmp_path}{os.pathsep}'
            f'{os.environ["PATH"]}', 'GPUS': '16',
            'SRUN_ARGS': '--time=1 --mem=2'})
    said = done.stdout.split()
    assert said[0] == str(os.getpid())  # so a signal to the script reaches it
    for part in ('--partition=gpu', '--job-name=job', '--ntasks=16',
                 '--ntasks-per-node=8', '--gres=gpu:8', '--time=1',
                 '--mem=2'):
        assert part in said
    train, = (i for i, part in enumerate(said) if part.endswith('train.py'))
    assert said[train - 2:train] == ['python', '-u']
    assert said[train + 1:] == [
        CONFIG, '--launcher', 'slurm', '--amp', '--cfg-options', 'a=1']
