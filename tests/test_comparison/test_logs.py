"""What is read from the logs of mmengine."""
import json
import math

import pytest

from mmselfkd.comparison.logs import first_metric, read_log


def write(folder, *lines):
    path = folder / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(
        line if isinstance(line, str) else json.dumps(line)
        for line in lines))


def test_a_run_that_was_killed(tmp_path):
    """What it repeated counts once; its last line is cut off."""
    write(tmp_path / '1', dict(loss=3., time=9., step=10),
          dict(loss=2., time=1., step=20), '{"loss": 1')
    write(tmp_path / '2', dict(loss=1., time=2., data_time=.5, step=20),
          dict(mIoU=5., step=20))
    log = read_log(tmp_path)
    assert log.starts == 2 and log.evaluations == {20: dict(mIoU=5., step=20)}
    assert [record['loss'] for record in log.train.values()] == [3., 1.]
    assert log.step_seconds == 1.5  # of the second record alone
    assert math.isnan(read_log(tmp_path / 'none').step_seconds)


def test_a_broken_log(tmp_path):
    write(tmp_path / '1', '{"loss"', dict(loss=1., step=2))
    with pytest.raises(json.JSONDecodeError):
        read_log(tmp_path)


def test_the_metric_of_a_comparison():
    assert first_metric(['aAcc', 'mIoU']) == 'mIoU'
    assert first_metric(['own']) == 'own' and first_metric([]) is None
