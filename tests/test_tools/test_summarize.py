"""The table of finished runs."""
import json
import sys

import summarize


def write(folder, *records):
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text(
        '\n'.join(map(json.dumps, records)))


def test_last_validation_of_a_resumed_run(tmp_path, capsys, monkeypatch):
    """Two starts of one run, an older validation, an empty folder."""
    write(tmp_path / 'run/1/vis_data', dict(loss=2., time=0.2, step=50),
          dict(mIoU=10.5, step=100))
    write(tmp_path / 'run/2/vis_data', dict(loss=1., time=0.4, step=150),
          dict(loss=1., time=0.6, step=200), dict(mIoU=20.25, step=200))
    (tmp_path / 'empty').mkdir()
    monkeypatch.setattr(sys, 'argv', [
        'summarize.py', str(tmp_path / 'run'), str(tmp_path / 'empty')])
    summarize.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == ['| run | 200 | 20.25 | 0.40 |',
                         '| empty | - | - | - |']


def test_validations_counted_by_epochs(tmp_path):
    """As mmdet's logger does, also in a run by iterations."""
    write(tmp_path / 'run/1/vis_data', dict(loss=1., time=0.25, step=50),
          {'coco/bbox_mAP': 0.1, 'step': 0}, dict(loss=1., time=0.5, step=99),
          {'coco/bbox_mAP': 0.2, 'step': 2})
    assert summarize.read_log(tmp_path / 'run') == (
        {50: dict(mAP='10.0'), 99: dict(mAP='20.0')}, {50: 0.25, 99: 0.5})


def test_runs_of_several_tasks(tmp_path, capsys, monkeypatch):
    """Every metric has a column; a run without it has a dash there."""
    records = dict(
        seg=dict(mIoU=72.921),
        det={'coco/bbox_mAP': 0.369, 'coco/bbox_mAP_50': 0.586},
        mask={'coco/bbox_mAP': 0.3, 'coco/segm_mAP': 0.25},
        depth=dict(rmse=1.2853, abs_rel=0.19581, d1=0.7282, d2=0.87))
    for name, record in records.items():
        write(tmp_path / name / '1/vis_data',
              dict(loss=1., time=0.25, step=2), dict(record, step=2))
    monkeypatch.setattr(sys, 'argv', [
        'summarize.py', *(str(tmp_path / name) for name in records)])
    summarize.main()
    assert capsys.readouterr().out.splitlines() == [
        '| run | iterations | mIoU | mAP | mask mAP | RMSE | AbsRel | d1 | '
        's / iteration |',
        '| - | - | - | - | - | - | - | - | - |',
        '| seg | 2 | 72.92 | - | - | - | - | - | 0.25 |',
        '| det | 2 | - | 36.9 | - | - | - | - | 0.25 |',
        '| mask | 2 | - | 30.0 | 25.0 | - | - | - | 0.25 |',
        '| depth | 2 | - | - | - | 1.285 | 0.196 | 0.728 | 0.25 |',
    ]
