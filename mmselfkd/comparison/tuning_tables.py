"""What searches have found, in Markdown, CSV and JSON."""
import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .logs import metric_of
from .statistics import Difference
from .tables import NONE, finite, markdown, number
from .tuning import Trial, sign_of

NAME = 'tuning'  # of the files, without what follows the point
UNKNOWN = Difference(math.nan, math.nan, 0)


class Outcome(NamedTuple):
    """What the search over one method has found.

    Args:
        method (str): As the command line named it.
        tuned (str): The best one, in the same way.
        config (str): Of that, the entry of ``custom_hooks``.
        metric (str | None): By which the trials were judged.
        seed (int): Of the trials.
        holdout (float | None): Share of the train set that judged them.
        trials (Sequence[Trial]): The first is the method as shipped.
        best (Trial | None): The best of those that were finished.
        options (dict): Its arguments, by dotted keys.
        confirmed (Difference): Gain of the best over the method as shipped,
            over further seeds, as logged; positive where it is better.
    """

    method: str
    tuned: str
    config: str
    metric: str | None
    seed: int
    holdout: float | None
    trials: Sequence[Trial]
    best: Trial | None
    options: dict[str, Any]
    confirmed: Difference = UNKNOWN

    @property
    def shipped(self) -> float:
        """The metric of the method as shipped; NaN if it did not finish."""
        trial = self.trials[0] if self.trials else None
        done = trial is not None and trial.state == 'finished'
        return trial.value if trial is not None and done else math.nan

    @property
    def is_better(self) -> bool:
        """Whether a trial was better than the method as shipped."""
        return (self.best is not None and self.best.number > 0
                and math.isfinite(self.shipped))

    def gain(self, trial: Trial) -> float:
        """Over the method as shipped; NaN where one of them has no end."""
        if trial.state != 'finished' or trial.number == 0:
            return math.nan
        return sign_of(self.metric) * (trial.value - self.shipped)


def written(outcome: Outcome) -> list[list[str]]:
    """The cells of a table of trials, titles first."""
    metric = metric_of(outcome.metric or 'metric')
    keys = list(outcome.trials[0].values) if outcome.trials else []
    table = [['trial', 'state', metric.title + (
        '' if sign_of(outcome.metric) >= 0 else ', less is better'),
        'gain', *keys]]
    for trial in outcome.trials:
        gain = metric.factor * outcome.gain(trial)
        table.append([
            f'{trial.number}' + ', as shipped' * (trial.number == 0),
            trial.state,
            number(metric.factor * trial.value, metric.digits),
            f'{gain:+.{metric.digits}f}' if math.isfinite(gain) else NONE,
            *(NONE if trial.values[key] is None else str(trial.values[key])
              for key in keys)])
    return table


def result(outcome: Outcome) -> list[str]:
    """By how much the search moved the metric, and what to make of that."""
    metric = metric_of(outcome.metric or 'metric')
    factor, digits = metric.factor, metric.digits
    unfinished = [trial for trial in outcome.trials
                  if trial.state.startswith(('failed', 'unfinished', 'not'))]
    lines = [f'trial {trial.number}: {trial.state}' for trial in unfinished]
    if outcome.best is None:
        return [*lines, 'no trial has ended with a metric']
    if not math.isfinite(outcome.shipped):
        return [*lines, 'the method as shipped has no metric, so there is no '
                'gain']
    if not outcome.is_better:
        return [*lines, f'no trial was better than the method as shipped, '
                f'{metric.write(outcome.shipped)}']
    apart = outcome.confirmed
    gain = factor * outcome.gain(outcome.best)
    lines.append(
        f'{metric.title} {metric.write(outcome.shipped)} as shipped, '
        f'{metric.write(outcome.best.value)} with trial '
        f'{outcome.best.number}: {gain:+.{digits}f} with seed {outcome.seed}, '
        'by which it was chosen, so too much')
    if apart.seeds == 0:
        return [*lines, 'warning: one seed only: two runs with the same '
                'arguments may differ as much; name further --seeds']
    scaled = Difference(factor * apart.mean, factor * apart.half, apart.seeds)
    lines.append(f'with {apart.seeds} further seed{"s" * (apart.seeds > 1)}: '
                 f'{scaled.write(digits)}')
    if math.isnan(apart.mean):
        lines.append('warning: a run with a further seed has a metric of NaN')
    elif apart.seeds == 1:
        lines.append('warning: with one further seed there is no interval; '
                     'two runs with the same arguments may differ as much')
    elif apart.mean - apart.half <= 0:
        lines.append('warning: the gain is within what seeds move: its 95 % '
                     'interval holds 0')
    return lines


def as_markdown(outcomes: Sequence[Outcome]) -> str:
    """All tables, what must be said beside them, and what to paste."""
    blocks = []
    for outcome in outcomes:
        blocks += [
            f'## {outcome.method}', markdown(written(outcome)),
            '\n'.join(f'- {line}' for line in result(outcome))]
        if outcome.is_better:
            blocks += [f'```python\n{outcome.config.rstrip()}\n```',
                       f"As a method of tools/compare.py: '{outcome.tuned}'"]
    if any(outcome.holdout is None for outcome in outcomes):
        blocks.append('The trials were judged on val, so what is measured '
                      'there is somewhat too good; --holdout 0.1 judges them '
                      'on a part of the train set.')
    return '\n\n'.join(blocks) + '\n'


def as_csv(outcomes: Sequence[Outcome]) -> str:
    """One line a trial."""
    keys = list(dict.fromkeys(
        key for outcome in outcomes for trial in outcome.trials
        for key in trial.values))
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(['method', 'trial', 'state', 'metric', 'value', *keys])
    for outcome in outcomes:
        for trial in outcome.trials:
            writer.writerow([
                outcome.method, trial.number, trial.state, outcome.metric,
                trial.value, *(trial.values.get(key) for key in keys)])
    return file.getvalue()


def as_json(outcomes: Sequence[Outcome]) -> str:
    """All numbers as logged; null for what there is not."""
    return json.dumps(finite([
        dict(outcome._asdict(),
             trials=[trial._asdict() for trial in outcome.trials],
             best=None if outcome.best is None else outcome.best.number,
             confirmed=outcome.confirmed._asdict(), result=result(outcome))
        for outcome in outcomes]), indent=1)


def write(outcomes: Sequence[Outcome], folder: Path) -> list[Path]:
    """``tuning.md``, ``.csv`` and ``.json`` in the folder."""
    paths = []
    for suffix, make in (('.md', as_markdown), ('.csv', as_csv),
                         ('.json', as_json)):
        path = (folder / NAME).with_suffix(suffix)
        path.write_text(make(outcomes))
        paths.append(path)
    return paths
