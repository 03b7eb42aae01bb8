"""What a run logged, and what its numbers are called."""
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Metric(NamedTuple):
    """How a table shows a metric that a host logs.

    Args:
        title (str): The column.
        factor (float): By which the logged value is multiplied.
        digits (int): Behind the point.
        sign (int): 1 where more is better, -1 where less is.
    """

    title: str
    factor: float
    digits: int
    sign: int = 1

    def write(self, value: float) -> str:
        """The logged ``value`` as a table shows it."""
        return f'{self.factor * value:.{self.digits}f}'


# the first one of these that a run logs is what it is compared by
METRICS = {
    'mIoU': Metric('mIoU', 1, 2),
    'coco/bbox_mAP': Metric('mAP', 100, 1),
    'coco/segm_mAP': Metric('mask mAP', 100, 1),
    'pascal_voc/mAP': Metric('VOC mAP', 100, 1),
    'rmse': Metric('RMSE', 1, 3, -1),
    'abs_rel': Metric('AbsRel', 1, 3, -1),
    'd1': Metric('d1', 1, 3),
}
SIZES = {'s': 'small', 'm': 'medium', 'l': 'large'}


def metric_of(key: str) -> Metric:
    """How a metric is shown; one that is not known, as it was logged."""
    return METRICS.get(key, Metric(key, 1, 3))


def first_metric(keys: Iterable[str]) -> str | None:
    """What runs with these metrics are compared by."""
    keys = list(keys)
    return next((key for key in METRICS if key in keys),
                keys[0] if keys else None)


class Log(NamedTuple):
    """What a run logged, over all the times it was started.

    Args:
        train (dict[int, dict]): The records by iteration, the last one where
            an iteration was repeated.
        evaluations (dict[int, dict]): The metrics by the iteration after
            which they were measured.
        starts (int): How often the run was started.
    """

    train: dict[int, dict[str, Any]]
    evaluations: dict[int, dict[str, Any]]
    starts: int

    @property
    def step_seconds(self) -> float:
        """Median seconds of an iteration, without loading; NaN if none.

        The first record of a run holds what starts slowly, and is left out
        where there are others.
        """
        times = [record['time'] - record.get('data_time', 0)
                 for _, record in sorted(self.train.items())
                 if 'time' in record]
        return float(np.median(times[1:] or times)) if times else np.nan


def read_log(work_dir: str | Path) -> Log:
    """What lies in a work directory of mmengine.

    A line that a killed run has not finished is left out.
    """
    train: dict[int, dict[str, Any]] = {}
    evaluations: dict[int, dict[str, Any]] = {}
    paths = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    for path in paths:
        iteration = 0
        for record in _records(path):
            if 'loss' in record:
                iteration = record['step']
                train[iteration] = record
            elif 'step' in record:  # mmdet counts validations by epochs
                evaluations[max(iteration, record['step'])] = record
    return Log(train, evaluations, len(paths))


def _records(path: Path) -> Iterator[dict[str, Any]]:
    lines = path.read_text().splitlines()
    for i, line in enumerate(lines):
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            if i < len(lines) - 1:
                raise
