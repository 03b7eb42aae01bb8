"""From the folders of runs to the table: nothing is averaged away."""
import csv
import json
import math
from statistics import mean, stdev

import pytest
from comparison_runs import SETTINGS, write_run
from scipy import stats

from mmselfkd import ConfigError
from mmselfkd.comparison import tables
from mmselfkd.comparison.results import PLAIN, TEACHER, Plan, read_results

PLAINS, METHODS = (40., 42., 41.), (44., 43., 45.)


def write_all(folder, methods=METHODS, **kwargs):
    for seed, (plain, method) in enumerate(zip(PLAINS, methods)):
        write_run(folder, seed=seed, value=plain)
        write_run(folder, 'NFDHook', seed, method, **kwargs)


def row_of(folder, name='NFDHook'):
    group, = read_results([folder]).groups
    return next(row for row in tables.make_rows(group) if row.method == name)


def test_means_and_gains_are_those_of_the_paired_t_test(tmp_path):
    write_all(tmp_path)
    row = row_of(tmp_path)
    assert (row.mean, row.deviation) == (mean(METHODS), stdev(METHODS))
    low, high = stats.ttest_rel(METHODS, PLAINS).confidence_interval(0.95)
    assert (row.gain.mean - row.gain.half, row.gain.mean + row.gain.half
            ) == pytest.approx((low, high))
    assert (row.seeds, row.expected, row.step, row.memory) == (3, 3, 1, 1)
    assert read_results([tmp_path]).warnings == []


def test_markdown_csv_and_json(tmp_path):
    write_all(tmp_path, classes=(63., 18.))
    results = read_results([tmp_path])
    text = tables.as_markdown(results)
    assert ('| NFDHook | 3 of 3 | 44.00 | 1.00 | +3.00 ± 4.30 | 1.00 | 1.00 | '
            '1,000 | 0 |') in text
    assert '| pole | 20.00 | -2.00 ± 0.00 |' in text
    md, table, numbers = tables.write_tables(results, tmp_path)
    assert md.read_text() == text
    lines = list(csv.DictReader(table.open()))
    assert [(line['method'], line['seed'], line['mIoU'], line['state'])
            for line in lines[3:]] == [
        ('NFDHook', str(i), str(value), 'finished')
        for i, value in enumerate(METHODS)]
    parsed = json.loads(numbers.read_text())['tables'][0]
    assert parsed['rows'][1]['values'] == dict(zip('012', METHODS))
    assert parsed['gains']['road']['NFDHook']['mean'] == 3


def test_less_of_an_error_is_a_gain(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path, seed=seed, value=2., metric='rmse', classes=())
        write_run(tmp_path, 'SKDHook', seed, 1.5, 'rmse', classes=())
    assert row_of(tmp_path, 'SKDHook').gain.mean == 0.5
    assert 'RMSE, less is better' in tables.as_markdown(
        read_results([tmp_path]))


def test_sizes_of_boxes(tmp_path):
    """And a size of which there is none, which is -1 in COCO's numbers."""
    key = 'coco/bbox_mAP'
    for method, small in ((PLAIN, .1), ('NFDHook', .2)):
        write_run(tmp_path, method, 0, .3, key, classes=(.5, .1), metrics={
            key: .3, f'{key}_s': small, f'{key}_m': .4, f'{key}_l': -1})
    group, = read_results([tmp_path]).groups
    found = tables.parts(group)
    assert list(found) == ['road', 'pole', 'small boxes', 'medium boxes']
    assert tables.part_gains(group)['small boxes']['NFDHook'
                                                   ].mean == pytest.approx(10)


def test_one_seed_has_no_interval(tmp_path):
    write_run(tmp_path, value=40.)
    write_run(tmp_path, 'NFDHook', value=44.)
    results = read_results([tmp_path])
    text = tables.as_markdown(results)
    assert '| NFDHook | 1 of 1 | 44.00 | - | +4.00 | ' in text
    assert any(line.startswith('one seed only') for line in results.warnings)
    assert '±' not in text


@pytest.mark.parametrize('change, state', [
    (dict(value=math.nan), 'mIoU is NaN'),
    (dict(value=1., metric='aAcc'), 'mIoU was not measured'),
    (dict(losses=(2., math.nan)), 'loss is nan at its end')])
def test_nan_makes_the_mean_nan(tmp_path, change, state):
    for seed in (0, 1):
        write_run(tmp_path, seed=seed, value=40.)
    write_run(tmp_path, 'NFDHook', 0, 44.)
    write_run(tmp_path, 'NFDHook', 1, **{'value': 45., **change})
    results = read_results([tmp_path])
    assert '| NFDHook | 1 of 2 | NaN | - | NaN |' in tables.as_markdown(
        results)
    assert results.warnings == [f'NFDHook, seed 1: {state}']


def test_a_file_that_is_cut_off(tmp_path):
    folder = write_run(tmp_path, value=40.)
    (folder / 'evaluation.json').write_text('{"metrics": {"mI')
    with pytest.raises(ConfigError, match='evaluation.json is damaged .*; '
                                          'remove it'):
        read_results([tmp_path])


def test_missing_failed_and_unfinished_runs_are_named(tmp_path):
    write_all(tmp_path)
    write_run(tmp_path, 'A', 0, 44.)
    folder = write_run(tmp_path, 'A', 1)
    (folder / 'failure.txt').write_text('RuntimeError: out of memory\n')
    write_run(tmp_path, 'B', 2, losses=(2., ))
    write_run(tmp_path, 'B', 1, losses=())
    results = read_results([tmp_path])
    assert results.warnings == [
        'A, seed 1: failed: RuntimeError: out of memory', 'A, seed 2: missing',
        'B, seed 0: missing', 'B, seed 1: not started',
        'B, seed 2: unfinished, 10 of 20 iterations']
    row = row_of(tmp_path, 'A')
    assert (row.seeds, row.expected, row.mean) == (1, 3, 44)
    assert row_of(tmp_path, 'B').seeds == 0


@pytest.mark.parametrize('part', ['schedule', 'data', 'student'])
def test_other_settings_are_another_table(tmp_path, part):
    write_run(tmp_path, value=40.)
    write_run(tmp_path, 'NFDHook', 0, 50.,
              settings={**SETTINGS, part: dict(other=1)})
    results = read_results([tmp_path])
    assert len(results.groups) == 2
    assert results.warnings[0].startswith('mixed: table 2')
    assert f'{part}.other: None and 1' in results.warnings[0]
    assert 'table 2: there is no plain student: no gains' in results.warnings
    assert all(math.isnan(row.gain.mean)
               for group in results.groups for row in tables.make_rows(group))


def test_other_teachers_are_not_averaged(tmp_path):
    write_run(tmp_path, seed=0, value=40.)
    write_run(tmp_path, seed=1, value=40.)
    write_run(tmp_path, 'NFDHook', 0, 41., teacher='a')
    write_run(tmp_path, 'NFDHook', 1, 49., teacher='b')
    assert row_of(tmp_path).values == {0: 41.}
    assert row_of(tmp_path, 'NFDHook (2)').values == {1: 49.}
    assert any('different teachers' in line
               for line in read_results([tmp_path]).warnings)


def test_two_folders_with_the_same_run(tmp_path):
    for name in 'ab':
        write_run(tmp_path / name, value=40.)
        write_run(tmp_path / name, 'NFDHook', 0, 41.)
    results = read_results([tmp_path / 'a', tmp_path / 'b'])
    assert 'NFDHook (again)' in results.groups[0].methods()
    assert any('NFDHook (again)' in line for line in results.warnings)


def test_the_teacher_has_a_row(tmp_path):
    write_all(tmp_path)
    folder = write_run(tmp_path, TEACHER, 0, 72.5)
    assert folder.name == 'teacher-seed0'
    assert '| teacher | 1 of 1 | 72.50 | - | - |' in tables.as_markdown(
        read_results([tmp_path]))


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(ConfigError, match='no run of a comparison in'):
        read_results([tmp_path])


def test_a_run_that_was_started_otherwise(tmp_path):
    folder = write_run(tmp_path)
    plan = Plan(PLAIN, 0, 0, {**SETTINGS, 'schedule': dict(max_iters=30)},
                dict(hook=None, teacher=None), '')
    with pytest.raises(ConfigError, match='schedule.max_iters = 30, but .*'
                                          'started with 20'):
        plan.write(folder)
