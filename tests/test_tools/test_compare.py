"""One command for the plain student and methods, stopped and resumed."""
import json
import os
import signal
import subprocess
import sys
import time

import compare
import pytest
import runs
import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS

from mmselfkd import ConfigError
from mmselfkd.comparison import results
from mmselfkd.comparison.display import Display, duration

TOY = 'mmselfkd::toy/fpn_r18-w8_1xb8-1k_toy-64x64.py'
BIG = TOY.replace('w8', 'w32')
STEPS = 6
SHORT = ['--cfg-options', f'train_cfg.max_iters={STEPS}',
         f'train_cfg.val_interval={STEPS}', 'default_hooks.logger.interval=1',
         'train_dataloader.batch_size=2', 'train_dataloader.dataset.length=8',
         'val_dataloader.dataset.length=2',
         'default_hooks.checkpoint.interval=2']


@pytest.fixture
def comparison(monkeypatch, tmp_path):
    """What the command line asks for; nothing is run."""

    def make(*flags, student=TOY, work_dir=tmp_path / 'work'):
        monkeypatch.setattr(sys, 'argv', [
            'compare.py', str(student), '--work-dir', str(work_dir),
            *map(str, flags)])
        return compare.Comparison(compare.parse_args())

    return make


TEACHER = ['--teacher', BIG, '--teacher-checkpoint', 'random']
NFD = ['--methods', 'NFDHook', *TEACHER]


def test_killed_and_started_again(comparison, tmp_path, capsys):
    """The same weights, bit for bit, as without that, and the table."""
    name = ('SKDHook:losses.loss_ho=None:losses.loss_pa.loss_weight=1e-6:'
            'diagnose.interval=1')
    flags = ['--methods', name, *TEACHER, '--seeds', 5, *SHORT]
    made = comparison(*flags)
    plain, method = made.jobs()
    (plain.folder / 'final.pth').touch()  # it was trained and tested before
    (plain.folder / 'evaluation.json').write_text(json.dumps(dict(
        metrics=dict(mIoU=1.), classes={'ground': 7.}, images=[.5, .5],
        image_score='pixel accuracy', confusion=None)))
    process = subprocess.Popen(
        list(map(str, method.steps[0].command())), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
    end = time.monotonic() + 100
    while not (method.folder / 'iter_2.pth').exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (method.folder / 'final.pth').exists()
    comparison(*flags)  # leaves the command line for main
    compare.main()
    out = capsys.readouterr().out
    assert f'start {method.name}' in out and 'start plain' not in out
    assert '| plain student | 1 of 1 | 1.00 |' in out
    assert f'| {name} | 1 of 1 | ' in out
    found = results.read_run(method.folder)
    assert found.state('mIoU') == 'finished' and found.log.starts == 2
    assert found.facts['parameters'] == 203827
    assert any('raise its loss_weight' in line
               for line in found.facts['advice'])
    assert 'distill.share.loss_pa' in found.log.train[STEPS]

    cfg = Config.fromfile(found.plan.config)
    cfg.work_dir = str(tmp_path / 'whole')
    RUNNERS.build(cfg).train()
    states = [torch.load(folder / 'final.pth', weights_only=False)[
        'state_dict'] for folder in (method.folder, tmp_path / 'whole')]
    assert all(torch.equal(states[0][key], states[1][key])
               for key in states[0])

    compare.main()
    assert ' start ' not in capsys.readouterr().out


def test_jobs_and_what_they_share(comparison, tmp_path):
    jobs = comparison('--methods', 'NFDHook', 'FRSKDHook', *TEACHER,
                      '--seeds', 3, 4).jobs()
    assert [job.name for job in jobs] == [
        f'{method}-seed{seed}' for seed in (3, 4)
        for method in ('plain', 'nfd', 'frskd')]
    plain, nfd, frskd = (results.read_run(job.folder) for job in jobs[:3])
    assert plain.plan.settings == nfd.plan.settings == frskd.plan.settings
    assert plain.plan.method_settings == dict(hook=None, teacher=None)
    assert frskd.plan.method_settings['teacher'] is None
    assert nfd.plan.method_settings['hook'] == dict(
        type='mmselfkd.NFDHook', teacher=dict(
            config=BIG, checkpoint='random'))
    cfg = Config.fromfile(nfd.plan.config)
    assert cfg.randomness.seed == 3 and cfg.test_dataloader == (
        cfg.val_dataloader)
    assert [hook.type for hook in cfg.custom_hooks] == [
        'mmselfkd.NFDHook', 'mmselfkd.ComparisonHook']


def test_a_teacher_that_is_trained_first(comparison):
    run = comparison('--methods', 'NFDHook', '--teacher', BIG, '--seeds', 0)
    teacher, plain, nfd = run.jobs()
    assert len(teacher.steps) == 2 and plain.ready() and not nfd.ready()
    (teacher.folder / 'final.pth').touch()
    assert nfd.ready()


def test_a_teacher_that_is_given(comparison, tmp_path):
    weights = tmp_path / 'w.pth'
    torch.save(dict(a=1), weights)
    flags = ['--methods', 'NFDHook', '--teacher', BIG, '--teacher-checkpoint',
             weights, '--seeds', 0]
    teacher, _, nfd = comparison(*flags).jobs()
    assert len(teacher.steps) == 1 and nfd.ready()
    assert str(weights) in map(str, teacher.steps[0].command())
    torch.save(dict(a=2), weights)
    with pytest.raises(ConfigError, match='checkpoint = .*started with'):
        comparison(*flags).jobs()


def test_another_schedule_in_the_same_folder(comparison):
    comparison(*NFD, '--seeds', 0).jobs()
    with pytest.raises(ConfigError, match='schedule.train_cfg.max_iters = 7, '
                                          'but .* started with 1000'):
        comparison(*NFD, '--seeds', 0, '--cfg-options',
                   'train_cfg.max_iters=7').jobs()
    assert len(comparison(*NFD, '--seeds', 1).jobs()) == 2


def test_variants(comparison):
    made = comparison(
        '--methods', 'NFDHook', 'NFDHook:losses.loss_nfd.loss_weight=5',
        'SKDHook:losses.loss_ho=None:losses.loss_pi.source=teacher:logits',
        *TEACHER)
    assert [method.options for method in made.methods] == [
        {}, {'losses.loss_nfd.loss_weight': 5},
        {'losses.loss_ho': None, 'losses.loss_pi.source': 'teacher:logits'}]
    assert [method.slug for method in made.methods] == [
        'nfd', 'nfd-loss_weight=5', 'skd-loss_ho=None-source=teacher_logits']


def test_a_file_with_a_hook(comparison, tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', 'before')
    monkeypatch.setattr(sys, 'path', list(sys.path))
    (tmp_path / 'hook_of_mine.py').write_text(
        'from mmselfkd import NFDHook\n'
        'class MyHook(NFDHook):\n    """Mine."""\n')
    made = comparison('--methods', f'{tmp_path / "hook_of_mine.py"}:inherit='
                                   'neck', *TEACHER, '--seeds', 0)
    jobs = made.jobs()
    assert jobs[1].name == 'my-inherit=neck-seed0'
    hook = results.read_run(jobs[1].folder).plan.method_settings['hook']
    assert hook == dict(type='hook_of_mine.MyHook', inherit='neck',
                        teacher=dict(config=BIG, checkpoint='random'))
    assert os.environ['PYTHONPATH'] == f'{tmp_path}{os.pathsep}before'


@pytest.mark.parametrize('flags, message', [
    (['--methods', 'NFDHok', *TEACHER], 'no such method .*NFDHook'),
    (['--methods', 'NFDHook'], 'NFDHook: it needs --teacher'),
    (['--methods', 'no/hook.py', *TEACHER], 'no such file'),
    (['--methods', 'NFDHook:weight', *TEACHER], "'weight' is no key.path="),
    ([*NFD, '--teacher-checkpoint', 'no/w.pth'], "no checkpoint 'no/w.pth'"),
    ([*NFD, '--cfg-options', 'val_dataloader=None'],
     'val_dataloader is None')])
def test_bad_input(comparison, flags, message):
    with pytest.raises(SystemExit, match=message):
        comparison(*flags)


class Attack:

    def __reduce__(self):
        return os.mkdir, ('victim', )


def test_a_teacher_that_would_run_code(comparison, tmp_path, monkeypatch):
    """Refused before the plain student is trained."""
    monkeypatch.chdir(tmp_path)
    torch.save(dict(meta=Attack()), 'a.pth')
    flags = [*NFD, '--teacher-checkpoint', 'a.pth']
    with pytest.raises(SystemExit, match='--trust-checkpoint reads it'):
        comparison(*flags)
    assert not (tmp_path / 'victim').exists()


@pytest.mark.parametrize('flags, message', [
    ([*NFD, '--seeds', 0, 0], '--seeds: 0 is named twice'),
    ([*NFD, '--jobs', 0], '--jobs 0: at least 1'),
    ([*NFD, '--launcher', 'slurm'], 'slurm needs --partition'),
    (['--methods', 'NFDHook', '--teacher-checkpoint', 'x'],
     '--teacher-checkpoint needs --teacher')])
def test_bad_flags(comparison, capsys, flags, message):
    with pytest.raises(SystemExit):
        comparison(*flags)
    assert message in capsys.readouterr().err


def test_a_student_that_distils_already(comparison, tmp_path):
    path = tmp_path / 'distilled.py'
    path.write_text(f'_base_ = {TOY!r}\n'
                    'custom_hooks = [dict(type="mmselfkd.FRSKDHook")]')
    with pytest.raises(SystemExit, match='distils already, by mmselfkd.FRS'):
        comparison(*NFD, student=path)


def test_slots(comparison, monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    slots = comparison(*NFD, '--jobs', 3).slots()
    assert [slot['OMP_NUM_THREADS'] for slot in slots] == ['1'] * 3
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)

    def devices(*flags):
        return [slot['CUDA_VISIBLE_DEVICES']
                for slot in comparison(*NFD, *flags).slots()]

    assert devices() == ['0', '1']
    assert devices('--jobs', 3) == ['0', '1', '0']
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '5,7')
    assert devices() == ['5', '7']


def test_slurm(comparison, tmp_path, monkeypatch):
    """The command is that of tools/slurm_train.sh, with a stub of srun."""
    jobs = comparison(*NFD, '--seeds', 0, '--launcher', 'slurm',
                      '--partition', 'gpus').jobs()
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\necho "$@"\n')
    srun.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    monkeypatch.setenv('GPUS', '2')
    said = [subprocess.run(
        list(map(str, step.command())), text=True, capture_output=True,
        check=True).stdout for step in jobs[0].steps]
    for text, tool, gpus in zip(said, ('train.py', 'test.py'), (2, 1)):
        assert text.startswith('--partition=gpus --job-name=plain-seed0 ')
        assert f'--ntasks={gpus} ' in text and f'tools/{tool} ' in text
        assert '--launcher slurm ' in text and '--work-dir' in text


def test_what_a_run_goes_on_from(tmp_path):
    assert runs.resume(tmp_path) == []
    for name in ('iter_2.pth', 'iter_10.pth', 'best_mIoU_iter_12.pth'):
        torch.save(dict(a=1), tmp_path / name)
    last = tmp_path / 'last_checkpoint'
    last.write_text(str(tmp_path / 'iter_10.pth'))
    assert runs.resume(tmp_path) == ['--resume']
    whole = (tmp_path / 'iter_10.pth').read_bytes()
    (tmp_path / 'iter_10.pth').write_bytes(whole[:-30])  # cut off
    assert runs.resume(tmp_path) == ['--resume', tmp_path / 'iter_2.pth']
    (tmp_path / 'iter_2.pth').unlink()
    assert runs.resume(tmp_path) == []


def test_progress_in_a_terminal(comparison, tmp_path):
    import io

    from rich.console import Console
    jobs = comparison(*NFD, '--seeds', 0, 1).jobs()
    records = [dict(loss=2., time=.5, data_time=.25, step=step)
               for step in (10, 20)]
    for job in jobs[:1]:
        log = job.folder / '1' / 'vis_data' / 'scalars.json'
        log.parent.mkdir(parents=True)
        log.write_text('\n'.join(map(json.dumps, records)))
        (job.folder / 'facts.json').write_text('{"iterations": 100}')
    file = io.StringIO()
    with Display(jobs, 2, Console(file=file, force_terminal=True, width=100)
                 ) as display:
        display.look()
        display.say('[a] line')
    text = file.getvalue()
    assert '20 of 100' in text and 'trains' in text and '[a] line' in text
    assert '0:00:20' in text  # 80 iterations of a quarter of a second
    # and three runs of 25 s that have not begun, two at a time
    assert 'all: 0:00:48 left' in text
    assert duration(3723.4) == '1:02:03'


def test_no_table_where_there_is_no_terminal(comparison):
    import io

    from rich.console import Console
    file = io.StringIO()
    with Display(comparison(*NFD, '--seeds', 0).jobs(), 1,
                 Console(file=file)) as display:
        display.look()
        display.say('12:00:00 start nfd-seed0')
    assert file.getvalue() == '12:00:00 start nfd-seed0\n'
