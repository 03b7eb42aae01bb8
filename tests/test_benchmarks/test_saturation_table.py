"""Means, intervals and equal cost of benchmarks/saturation."""
import json
import sys

import pytest

from benchmarks.saturation import pages, table


def row(config, iterations, seed, value, split='val', label=''):
    return dict(config=config, iterations=iterations, seed=seed, split=split,
                label=label, metrics={
                    '500': dict(mIoU=99.), str(iterations): dict(mIoU=value)})


PLAIN = [row('camvid_student', n, seed, value)
         for n, values in {1000: (40, 41, 42), 2000: (44, 44, 44),
                           4000: (46, 47, 45)}.items()
         for seed, value in enumerate(values)]


def test_last_evaluation_of_the_split_asked_for():
    rows = [*PLAIN, row('camvid_student', 1000, 0, 7., 'held', 'lr'),
            dict(row('bccd_student', 1000, 0, 0),
                 metrics={'1000': {'coco/bbox_mAP': .5}})]
    scores = table.read_scores(rows, 'camvid', 'val')
    assert len(scores) == 3
    assert scores['camvid_student', '', 1000] == {0: 40, 1: 41, 2: 42}
    assert table.read_scores(rows, 'camvid', 'held') == {
        ('camvid_student', 'lr', 1000): {0: 7.}}
    assert table.read_scores(rows, 'bccd', 'val') == {
        ('bccd_student', '', 1000): {0: 50.}}


def test_plain_student_of_equal_cost():
    plain = {1000: {0: 40., 1: 41.}, 4000: {0: 46., 1: 43., 2: 9.}}
    assert table.at_cost(plain, 1000) == plain[1000]
    assert table.at_cost(plain, 4000) == plain[4000]
    # half way in the logarithm
    assert table.at_cost(plain, 2000) == pytest.approx({0: 43., 1: 42.})
    assert table.at_cost(plain, 4001) == table.at_cost(plain, 999) == {}


def test_the_plain_student_of_a_run():
    configs = ['camvid_student', 'camvid_x_student', 'camvid_taught']
    for config, plain in {
            'camvid_taught': 'camvid_student',
            'camvid_skd_cached': 'camvid_student',
            'camvid_x_taught': 'camvid_x_student',
            'camvid_x_student': 'camvid_x_student',
            'bccd_taught': None}.items():
        assert table.plain_config(config, configs) == plain


def test_table(tmp_path, monkeypatch, capsys):
    method = [row('camvid_taught', 1000, seed, value, label='nfd')
              for seed, value in enumerate((43, 45, 44))]
    (tmp_path / 'results.jsonl').write_text(
        ''.join(json.dumps(r) + '\n' for r in [*PLAIN, *method]))
    (tmp_path / 'costs.json').write_text('{"camvid_taught nfd": 2}')
    monkeypatch.setattr(table, 'HERE', tmp_path)
    monkeypatch.setattr(sys, 'argv', ['table', 'camvid'])
    table.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == [
        '| camvid_student | 1000 | 3 | 41.00 | 1.00 | - | 1 |  |',
        '| camvid_student | 2000 | 3 | 44.00 | 0.00 | +3.00 ± 2.48 | 1 |  |',
        '| camvid_student | 4000 | 3 | 46.00 | 1.00 | +2.00 ± 2.48 | 1 |  |',
        '| camvid_taught nfd | 1000 | 3 | 44.00 | 1.00 | +3.00 ± 2.48 | 2.00 '
        '| +0.00 ± 2.48 |']


def test_what_was_measured_of_a_method():
    rows = [*PLAIN, row('camvid_taught', 1000, 1, 45., label='nfd'),
            row('camvid_taught', 1000, 9, 45., label='nfd'),
            row('camvid_alone', 2000, 0, 43., label='ka_dtd-tuned'),
            row('camvid_taught', 500, 0, 1., label='cwd'),
            row('camvid_skd_cached', 1000, 0, 1., label='views1'),
            row('camvid_student', 1000, 0, 1., label='lr')]
    assert table.by_method(rows) == {
        'nfd': [dict(data='camvid', iterations=1000,
                     run='camvid_taught nfd', plain={1: 41},
                     distilled={1: 45.})],
        'ka_dtd': [dict(data='camvid', iterations=2000,
                        run='camvid_alone ka_dtd-tuned',
                        plain={0: 44}, distilled={0: 43.})]}


def test_runs_of_one_length_on_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(table, 'HERE', tmp_path)  # no costs.json
    rows = [*PLAIN, row('camvid_teacher', 2000, 0, 60., label='lr'),
            row('camvid_taught', 2000, 0, 9., label='nfd'),
            row('camvid_taught', 2000, 0, 47., label='cwd')]

    def written(*words):
        return [line.split(' | ')[:6] for line in pages.some_runs(
            rows, 'camvid', *words).splitlines()[2:]]

    # the best first; the plain student's gain would be over half of its
    # schedule, a teacher's none at all
    assert written('val', '2000') == [
        ['| camvid_taught cwd', '2000', '1', '47.00', '-', '+3.00'],
        ['| camvid_student', '2000', '3', '44.00', '0.00', ''],
        ['| camvid_taught nfd', '2000', '1', '9.00', '-', '-35.00']]
    assert written('val', 'plain') == [
        ['| camvid_student', '1000', '3', '41.00', '1.00', '-'],
        ['| camvid_student', '2000', '3', '44.00', '0.00', '+3.00 ± 2.48'],
        ['| camvid_student', '4000', '3', '46.00', '1.00', '+2.00 ± 2.48'],
        ['| camvid_teacher lr', '2000', '1', '60.00', '-', '']]


def test_only_what_stands_between_the_comments_is_written(tmp_path):
    page = tmp_path / 'page.md'
    begin = '<!-- by benchmarks/saturation/pages.py'
    page.write_text(f'a\n{begin}: val 1 -->\nold\n<!-- end -->\nb\n'
                    f'{begin} -->\n<!-- end -->\n')
    assert pages.filled(page, lambda words: f'{words}!\n') == (
        f'a\n{begin}: val 1 -->\nval 1!\n<!-- end -->\nb\n'
        f'{begin} -->\nNone!\n<!-- end -->\n')
    page.write_text('a\n')
    with pytest.raises(ValueError, match='page.md: has no <!-- by'):
        pages.filled(page, str)
