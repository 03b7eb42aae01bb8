"""The tables of a comparison, in Markdown, CSV and JSON."""
import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .logs import SIZES, metric_of
from .results import PLAIN, TEACHER, Group, Results, Run
from .statistics import Difference, deviation, paired

NAME = 'comparison'  # of the files, without what follows the point
NONE, NAN = '-', 'NaN'


class Row(NamedTuple):
    """One method of a table; numbers in the unit of the table.

    Args:
        method (str): Its name.
        seeds (int): That are in the numbers.
        expected (int): That there should be.
        mean (float): Of the metric; NaN if a seed is NaN or none is done.
        deviation (float): With n - 1; NaN for one seed.
        gain (Difference): Against the plain student, positive where better.
        step (float): Seconds of a step against the plain one.
        memory (float): Peak memory against the plain one.
        parameters (int | None): Trained ones, in the student.
        along (int | None): Trained beside the student.
        states (dict): By seed, of every expected run.
        values (dict): The metric by seed; NaN where a run ended without one.
    """

    method: str
    seeds: int
    expected: int
    mean: float
    deviation: float
    gain: Difference
    step: float
    memory: float
    parameters: int | None
    along: int | None
    states: dict[int, str]
    values: dict[int, float]


def make_rows(group: Group) -> list[Row]:
    """The rows of a group's table, the teacher's first, if there is one."""
    key = group.metric
    metric = metric_of(key or 'metric')
    methods = group.methods()
    plain = methods[PLAIN]
    reference = scores(plain, key)
    rows = []
    if group.teacher is not None:
        value = metric.factor * group.teacher.value(key or '')
        rows.append(Row(
            TEACHER, int(math.isfinite(value)), 1, value, math.nan,
            Difference(math.nan, math.nan, 0), math.nan, math.nan, None, None,
            {}, {}))
    for name, runs in methods.items():
        by_seed = scores(runs, key)
        done = {seed: runs[seed] for seed in by_seed}
        gain = paired(by_seed, reference) if name != PLAIN else Difference(
            math.nan, math.nan, 0)
        facts = next((run.facts for run in runs.values() if run.facts), {})
        rows.append(Row(
            name, sum(map(math.isfinite, by_seed.values())),
            len(group.seeds),
            float(np.mean(list(by_seed.values()))) if by_seed else math.nan,
            deviation(list(by_seed.values())),
            gain._replace(mean=metric.sign * gain.mean),
            ratio(done, plain, lambda run: run.step_seconds),
            ratio(done, plain, lambda run: run.facts.get('memory', math.nan)),
            facts.get('parameters'), facts.get('along'),
            {seed: runs[seed].state(key) if seed in runs else 'missing'
             for seed in group.seeds}, by_seed))
    return rows


def scores(runs: Mapping[int, Run], key: str | None) -> dict[int, float]:
    """The metric by seed in the unit of a table.

    A run that ended without a number counts as NaN, so that no mean hides it;
    one that has not ended is left out.
    """
    if key is None:
        return {}
    factor = metric_of(key).factor
    return {
        seed: factor * run.value(key) if run.state(key) == 'finished'
        else math.nan
        for seed, run in runs.items() if run.evaluation}


def ratio(runs: Mapping[int, Run], plain: Mapping[int, Run],
          measure: Any) -> float:
    """Median over the seeds of both of the ratio of a measure."""
    ratios = [measure(runs[seed]) / measure(plain[seed])
              for seed in runs.keys() & plain.keys()]
    ratios = [value for value in ratios if math.isfinite(value)]
    return float(np.median(ratios)) if ratios else math.nan


def parts(group: Group) -> dict[str, dict[str, dict[int, float]]]:
    """The metric of each class, and the AP of each size of box.

    Returns:
        dict: By class or size, then by method, then by seed; in the unit of
        the table. A class that is not in the ground truth is left out.
    """
    key = group.metric or ''
    factor = metric_of(key).factor
    found: dict[str, dict[str, dict[int, float]]] = {}
    for name, runs in group.methods().items():
        for seed, run in runs.items():
            if run.state(key) != 'finished':
                continue
            values = dict(run.evaluation['classes'])
            values.update({
                f'{size} boxes': run.evaluation['metrics'].get(
                    f'{key}_{letter}', math.nan)
                for letter, size in SIZES.items()})
            for part, value in values.items():
                if math.isfinite(value) and value >= 0:  # COCO: -1 for none
                    found.setdefault(part, {}).setdefault(name, {})[seed] = (
                        factor * value)
    return found


def part_gains(group: Group) -> dict[str, dict[str, Difference]]:
    """The gains of :func:`parts`, by part and method."""
    return {
        part: {
            name: paired(by_seed, by_method.get(PLAIN, {}))
            for name, by_seed in by_method.items() if name != PLAIN}
        for part, by_method in parts(group).items()}


def written(group: Group) -> list[list[str]]:
    """The cells of a group's table, titles first."""
    metric = metric_of(group.metric or 'metric')
    less = '' if metric.sign > 0 else ', less is better'
    table = [['method', 'seeds', f'{metric.title}{less}', 'deviation',
              'gain, 95 % interval', 'step time', 'memory', 'parameters',
              'trained beside']]
    for row in make_rows(group):
        table.append([
            row.method, f'{row.seeds} of {row.expected}',
            NAN if row.mean != row.mean and row.values else number(
                row.mean, metric.digits),
            number(row.deviation, metric.digits),
            row.gain.write(metric.digits), number(row.step, 2),
            number(row.memory, 2), count(row.parameters), count(row.along)])
    return table


def written_parts(group: Group) -> list[list[str]]:
    """The cells of the table of classes and sizes, titles first."""
    metric = metric_of(group.metric or 'metric')
    methods = [name for name in group.methods() if name != PLAIN]
    plain = parts(group)
    table = [['', PLAIN, *methods]]
    for part, gains in part_gains(group).items():
        values = list(plain[part].get(PLAIN, {}).values())
        table.append([
            part,
            number(float(np.mean(values)), metric.digits) if values else NONE,
            *(gains[name].write(metric.digits) if name in gains else NONE
              for name in methods)])
    return table if len(table) > 1 else []


def number(value: float, digits: int) -> str:
    """``-`` for NaN."""
    return f'{value:.{digits}f}' if math.isfinite(value) else NONE


def count(value: int | None) -> str:
    """A number of parameters."""
    return NONE if value is None else f'{value:,}'


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first row are the titles."""
    lines = [table[0], [NONE] * len(table[0]), *table[1:]]
    return '\n'.join('| ' + ' | '.join(
        cell.replace('|', r'\|') for cell in line) + ' |' for line in lines)


HOW = ('Gains are means over the seeds of (method - plain student of the same '
       'seed), positive where the method is better, with their 95 % interval '
       "(Student's t). Step time and memory are against the plain student; "
       'runs beside each other disturb the time.')


def as_markdown(results: Results) -> str:
    """All tables, and what must be said beside them."""
    blocks = []
    for i, group in enumerate(results.groups, 1):
        if len(results.groups) > 1:
            blocks.append(f'Table {i}')
        blocks.append(markdown(written(group)))
        by_part = written_parts(group)
        if by_part:
            blocks.append(markdown(by_part))
    blocks.append(HOW)
    if results.warnings:
        blocks.append('\n'.join(f'- {text}' for text in results.warnings))
    return '\n\n'.join(blocks) + '\n'


def as_csv(results: Results) -> str:
    """One line a run, with every metric."""
    rows = [
        (i, name, seed, run)
        for i, group in enumerate(results.groups, 1)
        for name, runs in group.methods().items()
        for seed, run in runs.items()]
    keys = list(dict.fromkeys(
        key for *_, run in rows for key in run.evaluation.get('metrics', ())))
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(['table', 'method', 'seed', 'state', 'step_seconds',
                     'memory', 'parameters', 'along', *keys])
    for i, name, seed, run in rows:
        writer.writerow([
            i, name, seed, run.state(results.groups[i - 1].metric),
            run.step_seconds,
            *(run.facts.get(key, '')
              for key in ('memory', 'parameters', 'along')),
            *(run.evaluation.get('metrics', {}).get(key, '')
              for key in keys)])
    return file.getvalue()


def as_json(results: Results) -> str:
    """All numbers of the tables; null for what there is not."""
    tables = []
    for group in results.groups:
        rows = [dict(row._asdict(), gain=row.gain._asdict())
                for row in make_rows(group)]
        tables.append(dict(
            metric=group.metric, rows=rows, parts=parts(group),
            gains={part: {name: gain._asdict() for name, gain in by.items()}
                   for part, by in part_gains(group).items()}))
    return json.dumps(
        finite(dict(tables=tables, warnings=results.warnings)), indent=1)


def finite(value: Any) -> Any:
    """With None for what is not finite, as JSON needs it."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_tables(results: Results, folder: Path) -> list[Path]:
    """``comparison.md``, ``.csv`` and ``.json`` in the folder."""
    paths = []
    for suffix, write in (('.md', as_markdown), ('.csv', as_csv),
                          ('.json', as_json)):
        path = (folder / NAME).with_suffix(suffix)
        path.write_text(write(results))
        paths.append(path)
    return paths
