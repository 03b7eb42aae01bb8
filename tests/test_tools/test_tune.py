"""A search by one command, its runs by tests/fake_training.py."""
import fcntl
import json
import math
import sys

import pytest
import torch
import tune

from mmselfkd import ConfigError
from mmselfkd.comparison import tuning
from mmselfkd.comparison.results import read_run
from mmselfkd.comparison.search_space import SearchSpace

TOY = 'mmselfkd::toy/fpn_r18-w8_1xb8-1k_toy-64x64.py'
TEACHER = ['--teacher', TOY.replace('w8', 'w32'), '--teacher-checkpoint',
           'random']
WEIGHT = 'losses.loss_nfd.loss_weight'
SPACE = ['--methods', 'NFDHook', *TEACHER, '--space', f'{WEIGHT}=(0.5,50)']


@pytest.fixture
def command(monkeypatch, tmp_path, root):
    """Sets the command line; its runs are not trained."""
    monkeypatch.setattr(tune, 'INTERVAL', 0.2)
    # laying a config out takes longer than such a run, which reads none
    monkeypatch.setattr(tune.Tuning, 'write', lambda self, name, cfg: None)
    monkeypatch.setattr(
        tune.Tuning, 'command', lambda self, tool, gpus, name, *flags: [
            sys.executable, root / 'tests' / 'fake_training.py', tool,
            self.folder / name])

    def set_line(*flags, work_dir='work'):
        monkeypatch.setattr(sys, 'argv', [
            'tune.py', TOY, '--work-dir', str(tmp_path / work_dir),
            *map(str, flags)])
        return tmp_path / work_dir

    return set_line


def without_place(folder):
    """What was written, whatever the folder."""
    return [(folder / f'tuning{suffix}').read_text()
            for suffix in ('.md', '.csv', '.json')]


def test_a_search_that_is_stopped_and_goes_on(command, capsys, monkeypatch):
    """Ends as one that was not; what was finished is not run again."""
    flags = [*SPACE, '--trials', 7, '--seeds', 0, 1, 2, '--holdout', 0.1]
    whole = command(*flags, work_dir='whole')
    tune.main()
    out = capsys.readouterr().out
    found, = json.loads((whole / 'tuning.json').read_text())
    trials = found['trials']
    assert [trial['number'] for trial in trials] == list(range(7))
    assert trials[0]['values'] == {WEIGHT: 2.0}
    states = [trial['state'] for trial in trials]
    assert 'pruned at 10 of 20' in states and 'mIoU is NaN' in states
    done = [trial for trial in trials if trial['state'] == 'finished']
    best = max(done, key=lambda trial: trial['value'])
    assert found['best'] == best['number'] > 0
    weight = best['values'][WEIGHT]
    gain = 10 * (math.log(3) - abs(math.log(weight / 6)))
    assert found['confirmed'] == pytest.approx(
        dict(mean=gain, half=0, seeds=2), abs=1e-9)
    assert f'losses=dict(loss_nfd=dict(loss_weight={weight}))' in out
    assert f'{gain:+.2f} with seed 0' in out and 'warning' not in out
    assert f"'NFDHook:{WEIGHT}={weight}'" in out

    again = command(*flags)
    looks = tune.Tuning.look

    def killed(self):
        looks(self)
        if (again / 'nfd-trial2' / 'final.pth').exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tune.Tuning, 'look', killed)
        with pytest.raises(SystemExit, match='the same command goes on'):
            tune.main()
    capsys.readouterr()
    tune.main()
    out = capsys.readouterr().out
    assert 'start nfd-trial1\n' not in out and 'start nfd-trial3\n' in out
    assert without_place(again) == without_place(whole)

    tune.main()
    assert ' start ' not in capsys.readouterr().out


def test_runs_of_a_trial(command):
    folder = command('--methods', 'NFDHook', 'FRSKDHook', *TEACHER,
                     '--trials', 2, '--holdout', 0.25, '--seeds', 3)
    made = tune.Tuning(tune.parse_args())
    jobs = made.jobs()
    assert [job.name for job in jobs] == [
        'nfd-trial0', 'nfd-trial1', 'frskd-trial0', 'frskd-trial1']
    assert not (folder / 'nfd-trial1').exists()  # not drawn yet
    for job in jobs[:2]:
        job.folder.mkdir(exist_ok=True)
        job.steps[0].command()
    first, second = (read_run(job.folder).plan for job in jobs[:2])
    assert first.method == 'NFDHook' and first.seed == 3
    assert 'losses' not in first.method_settings['hook']  # as shipped
    assert second.method.startswith('NFDHook:losses.loss_nfd.')
    assert second.method_settings['hook']['losses']['loss_nfd']
    assert first.settings == second.settings
    train, val = (first.settings['data'][f'{name}_dataloader']['dataset']
                  for name in ('train', 'val'))
    assert (train['held'], val['held']) == (False, True)
    assert train['share'] == val['share'] == 0.25


def test_what_waits_for_the_teacher(command, tmp_path):
    weights = tmp_path / 'w.pth'
    torch.save(dict(a=1), weights)
    folder = command('--methods', 'NFDHook', *TEACHER[:2],
                     '--teacher-checkpoint', weights, '--metric', 'mAP',
                     '--trials', 2)
    made = tune.Tuning(tune.parse_args())
    teacher, first, _ = made.jobs()
    assert teacher.ready() and not first.ready()
    (folder / 'teacher' / 'evaluation.json').write_text(
        '{"metrics": {"mIoU": 7.0, "aAcc": 9.0}}')
    assert first.ready()
    with pytest.raises(ConfigError, match="--metric 'mAP': val does not mea"
                                          "sure it; .*'aAcc', 'mIoU'"):
        made.look()


@pytest.fixture
def study(tmp_path):
    def make(metric=None, **settings):
        from mmselfkd import NFDHook
        return tuning.Study(tmp_path, 'nfd', SearchSpace(NFDHook), settings,
                            metric)

    return make


def test_a_trial_is_the_same_however_often_it_is_asked(study):
    """Also one that another process has skipped."""
    second = study().ask(2)
    assert study().ask(2) == second != {}
    assert study().ask(0) == {}
    assert study().ask(1) != second
    assert len(study().study.trials) == 3


def test_less_is_better(study):
    made = study('rmse')
    for number, value in enumerate((2.0, 1.5)):
        write_trial(made, number, dict(rmse=value, d1=value))
    made.settle()
    assert [trial.value for trial in made.study.trials] == [-2.0, -1.5]
    assert made.best(made.trials(5)).number == 1


TIMES = dict(time=.1, data_time=.1, step=10)


def write_trial(made, number, metrics, **record):
    """A trial whose one validation has only times beside ``record``."""
    made.ask(number)
    log = made.folder_of(number) / '1' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps(dict(TIMES, **record)))
    (made.folder_of(number) / 'run.json').write_text(json.dumps(dict(
        method='', seed=0, position=0, settings={}, method_settings={},
        config='')))
    if metrics is not None:
        (made.folder_of(number) / 'evaluation.json').write_text(
            json.dumps(dict(metrics=metrics)))


@pytest.mark.parametrize('total, is_pruned', [(40, True), (41, False)])
def test_a_trial_is_pruned_after_a_quarter(study, total, is_pruned):
    """It is the worst of all in iteration 10."""
    made = study('mIoU')
    for number in range(4):
        write_trial(made, number, dict(mIoU=50.), mIoU=50.)
    write_trial(made, 4, None, mIoU=1.)
    folder = made.folder_of(4)
    (folder / 'facts.json').write_text(json.dumps(dict(iterations=total)))
    made.settle()
    assert (folder / 'pruned.json').exists() == is_pruned


@pytest.mark.parametrize('metric', [None, 'coco/bbox_mAP'])
def test_a_trial_that_finds_no_box_has_failed(study, metric):
    """mmdet's COCO metric returns nothing then; the search goes on."""
    made = study(metric)
    write_trial(made, 0, {})
    write_trial(made, 1, {'coco/bbox_mAP': .3}, **{'coco/bbox_mAP': .3})
    write_trial(made, 2, None)
    made.settle()
    assert [trial.state.name for trial in made.study.trials] == [
        'FAIL', 'COMPLETE', 'RUNNING']
    assert [trial.intermediate_values for trial in made.study.trials] == [
        {}, {10: .3}, {}]
    trials = made.trials(3)
    assert trials[0].state == f'{metric or "a metric"} was not measured'
    assert made.best(trials).number == 1
    assert made.metric_of(trials) == 'coco/bbox_mAP'


@pytest.mark.parametrize('metrics, record', [
    ({'aAcc': 3.}, {}), ({}, {'aAcc': 3.})])
def test_a_metric_that_val_does_not_measure(study, metrics, record):
    made = study('mIoU')
    write_trial(made, 1, metrics, **record)
    with pytest.raises(ConfigError, match="'mIoU': val does not measure it"):
        made.settle()


def test_one_process_at_a_time_settles(study, monkeypatch):
    made = study()
    write_trial(made, 1, {'mIoU': 3.})

    def report(*_):
        with open(made.folder / 'study.db.lock') as lock:
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        reported.append(True)

    reported = []
    monkeypatch.setattr(made, '_report', report)
    made.settle()
    assert reported and made.study.trials[1].value == 3.


@pytest.mark.parametrize('metric, sign', [
    ('mIoU', 1), ('rmse', -1), ('coco/bbox_mAP_50', 1), ('val_loss', -1),
    ('depth', 0), (None, 0)])
def test_what_is_better(metric, sign):
    assert tuning.sign_of(metric) == sign


def test_other_settings_in_the_same_folder(study):
    study(holdout=None)
    with pytest.raises(ConfigError, match='holdout = 0.1, but .*nfd-study.js'
                                          'on was started with None'):
        study(holdout=0.1)
    with pytest.raises(ConfigError, match="metric = 'mIoU', but"):
        study('mIoU', holdout=None)


def test_another_start_in_the_same_folder(command):
    flags = ['--methods', 'NFDHook', *TEACHER, '--cfg-options']
    command(*flags, 'load_from=a.pth')
    tune.Tuning(tune.parse_args()).jobs()
    command(*flags, 'load_from=b.pth')
    with pytest.raises(ConfigError, match="load_from = 'b.pth', but .*nfd-tr"
                                          "ial0 was started with 'a.pth'"):
        tune.Tuning(tune.parse_args()).jobs()


@pytest.mark.parametrize('flags, message', [
    (['--metric', 'dept'], "--metric 'dept': it is not known whether"),
    (['--holdout', '0'], '--holdout 0.0: a share'),
    (['--holdout', '1'], '--holdout 1.0: a share'),
    (['--space', 'losses.loss_nfd.wieght=(1,2)'], "no argument 'wieght'"),
    (['--cfg-options', 'val_evaluator=None'], 'val_evaluator is None'),
    (['--methods', 'NFD'], 'no such method hook; .*NFDHook'),
    (['--methods', 'DistillHook'], 'nothing to search'),
    (['--methods', 'NFDHook:losses.loss_nfd.dims=xy'], 'dims must be one')])
def test_bad_input(command, flags, message):
    command('--methods', 'NFDHook', *TEACHER, *flags)
    with pytest.raises(SystemExit, match=message):
        tune.main()


@pytest.mark.parametrize('flags, message', [
    (['--trials', '1'], '--trials 1: at least 2'),
    (['--methods', 'NFDHook', 'SKDHook', '--space', 'a=1,2'],
     '--space: is for one method'),
    (['--launcher', 'slurm', '--partition', 'p'], 'slurm needs --jobs')])
def test_bad_flags(command, capsys, flags, message):
    command('--methods', 'NFDHook', *TEACHER, *flags)
    with pytest.raises(SystemExit):
        tune.main()
    assert message in capsys.readouterr().err


def test_without_optuna(study, monkeypatch):
    monkeypatch.setattr(tuning, 'optuna', None)
    with pytest.raises(ConfigError, match="pip install 'optuna>=4'"):
        study()
