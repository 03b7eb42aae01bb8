"""The figures of a page, as SVG.

They are read in grey too: lines differ in their strokes, points in their
shapes.
"""
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from .logs import metric_of
from .results import PLAIN, Group, Run
from .statistics import Difference
from .tables import part_gains

WIDTH, HEIGHT = 4.6, 3.1  # inches: two beside each other on a screen
TITLE, LABEL, LINE = 46, 62, 0.15  # characters in a line, inches of a line
# dark, and of different lightness; stroke; shape
STYLES = (('#000000', '-', 'o'), ('#c1272d', '--', 's'),
          ('#0b6fa4', '-.', '^'), ('#d98200', ':', 'D'),
          ('#5b3a8c', (0, (5, 1, 1, 1, 1, 1)), 'v'),
          ('#4d7c0f', (0, (8, 3)), 'P'), ('#7a7a7a', (0, (1, 1)), 'X'))
SMOOTH = 0.02  # of a training curve: the share of a run that a point averages


def styles(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, stroke and shape of each method, the same in every figure."""
    return {
        name: dict(color=colour, linestyle=stroke, marker=shape)
        for name, (colour, stroke, shape) in zip(methods, cycle(STYLES))}


def as_svg(figure: Figure) -> str:
    """The text of the picture; the same for the same figure."""
    FigureCanvasSVG(figure)
    file = io.StringIO()
    from matplotlib import rc_context
    with rc_context({'svg.fonttype': 'none', 'svg.hashsalt': 'mmselfkd',
                     'font.family': 'sans-serif'}):
        figure.savefig(file, format='svg', metadata=dict(
            Date=None, Creator=None))
    return file.getvalue()


def _axes(title: str, x: str, height: float = HEIGHT) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH, height), layout='constrained')
    axes = figure.subplots()
    axes.set_title(_wrapped(title, TITLE), fontsize='medium')
    axes.set_xlabel(x)
    axes.spines[['top', 'right']].set_visible(False)
    return figure, axes


def _wrapped(name: str, width: int) -> str:
    """In several lines, where a variant of a method has a long name."""
    return textwrap.fill(name.replace(':', ': '), width) if len(
        name) > width else name


def _legend(figure: Figure, axes: Any) -> None:
    """Below the axes, which stay as high as they are."""
    lines, names = axes.get_legend_handles_labels()
    labels = [_wrapped(name, LABEL) for name in names]
    rows = sum(label.count('\n') + 1 for label in labels)
    figure.set_figheight(figure.get_figheight() + LINE * rows)
    figure.legend(lines, labels, loc='outside lower left', frameon=False,
                  fontsize='x-small')


def task_loss(record: Mapping[str, Any]) -> float | None:
    """The sum of the student's own losses in a record of a log."""
    own = [value for key, value in record.items()
           if 'loss' in key and key != 'loss'
           and not key.startswith('distill.')]
    return sum(own) if own else None


def curves(group: Group) -> Iterator[tuple[str, str]]:
    """Titles and SVG of what the runs logged over the iterations.

    The validation metric, the task's loss, then every ``distill.*``. A line
    is the mean over the seeds, as far as all have got, and a band their range.
    """
    methods = group.methods()
    style = styles(list(methods))
    key = group.metric
    if key is not None:
        metric = metric_of(key)
        yield metric.title, _curve(
            f'{metric.title} on the validation set', methods, style,
            lambda run: {step: metric.factor * record[key]
                         for step, record in run.log.evaluations.items()
                         if key in record}, smooth=False)
    yield 'task loss', _curve(
        "loss of the student's own task", methods, style,
        lambda run: _series(run, task_loss))
    logged = dict.fromkeys(
        name for run in group.runs for record in run.log.train.values()
        for name in record if name.startswith('distill.'))
    for name in logged:
        yield name, _curve(
            name, methods, style, lambda run, name=name: _series(
                run, lambda record: record.get(name)))


def _series(run: Run, value: Any) -> dict[int, float]:
    found = ((step, value(record)) for step, record in run.log.train.items())
    return {step: number for step, number in found if number is not None}


def _curve(title: str, methods: Mapping[str, Mapping[int, Run]],
           style: Mapping[str, dict], read: Any, smooth: bool = True) -> str:
    figure, axes = _axes(title, 'iteration')
    for name, runs in methods.items():
        series = [found for found in map(read, runs.values()) if found]
        if not series:
            continue
        steps = sorted(set().union(*series))
        lines = np.array([
            np.interp(steps, sorted(one), [one[step] for step in sorted(one)],
                      left=np.nan, right=np.nan) for one in series])
        if smooth:
            lines = np.array([_smoothed(line) for line in lines])
        look = dict(style[name])
        if len(steps) > 12:
            look.update(markevery=max(len(steps) // 6, 1))
        axes.plot(steps, lines.mean(0), label=name, markersize=4,
                  linewidth=1.4, **look)
        if len(series) > 1:
            axes.fill_between(
                steps, lines.min(0), lines.max(0), color=look['color'],
                alpha=0.15, linewidth=0)
    if axes.lines:
        _legend(figure, axes)
    return as_svg(figure)


def _smoothed(line: np.ndarray) -> np.ndarray:
    """A running mean, shorter at both ends."""
    half = int(SMOOTH * len(line) / 2)
    return np.array([line[max(i - half, 0):i + half + 1].mean()
                     for i in range(len(line))])


def gains(group: Group) -> str | None:
    """The gain of each class, with its interval; None if there is none."""
    by_part = part_gains(group)
    methods = [name for name in group.methods() if name != PLAIN]
    if not any(gain.seeds for found in by_part.values()
               for gain in found.values()):
        return None
    style = styles([PLAIN, *methods])
    rows = len(by_part) * (len(methods) + 1)
    figure, axes = _axes('gain over the plain student', '',
                         0.9 + max(0.17 * rows, 1.5))
    axes.axvline(0, color='black', linewidth=0.8)
    for j, name in enumerate(methods):
        look = dict(style[name], linestyle='none')
        at, means, halves = [], [], []
        for i, found in enumerate(by_part.values()):
            gain = found.get(name, Difference(np.nan, np.nan, 0))
            at.append(i + 0.7 * ((j + 0.5) / len(methods) - 0.5))
            means.append(gain.mean)
            halves.append(gain.half)
        # a NaN half draws no bar: one seed has no interval
        axes.errorbar(means, at, xerr=halves, label=name, capsize=2,
                      markersize=4, elinewidth=1, **look)
    axes.set_yticks(range(len(by_part)), list(by_part))
    axes.set_ylim(len(by_part) - 0.5, -0.5)
    axes.set_xlabel(metric_of(group.metric or 'metric').title + ' points')
    _bound(axes, by_part)
    _legend(figure, axes)
    return as_svg(figure)


def _bound(axes: Any, by_part: Mapping[str, Mapping[str, Difference]]) -> None:
    """Let the points fill the width; an interval of two seeds is cut off."""
    means = [abs(gain.mean) for found in by_part.values()
             for gain in found.values() if np.isfinite(gain.mean)]
    low, high = axes.get_xlim()
    most = 3 * max(means, default=1.0) or 1.0
    axes.set_xlim(max(low, -most), min(high, most))


def confusions(group: Group, classes: Sequence[str]
               ) -> Iterator[tuple[str, str]]:
    """Titles and SVG of the confusion of each method, over its seeds."""
    for name, runs in group.methods().items():
        counts = [run.evaluation['confusion'] for run in runs.values()
                  if run.evaluation.get('confusion')]
        if counts:
            yield name, _confusion(name, np.sum(counts, 0), classes)


def _confusion(name: str, counts: np.ndarray, classes: Sequence[str]) -> str:
    share = 100 * counts / counts.sum(1, keepdims=True).clip(1)
    figure, axes = _axes(name, 'predicted class', WIDTH)
    axes.imshow(share, cmap='Greys', vmin=0, vmax=100)
    axes.set_ylabel('class')
    few = len(classes) <= 24
    labels = list(classes) if few else []
    axes.set_xticks(range(len(labels)), labels, rotation=90,
                    fontsize='x-small')
    axes.set_yticks(range(len(labels)), labels, fontsize='x-small')
    if len(classes) <= 12:
        for i, row in enumerate(share):
            for j, value in enumerate(row):
                axes.text(j, i, f'{value:.0f}', ha='center', va='center',
                          fontsize='x-small',
                          color='white' if value > 55 else 'black')
    return as_svg(figure)
