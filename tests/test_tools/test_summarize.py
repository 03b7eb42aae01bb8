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
