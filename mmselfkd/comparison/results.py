"""The runs of a comparison, read from their folders."""
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .job_queue import FAILURE
from .logs import Log, first_metric, read_log
from .recording import EVALUATION, FACTS, FINAL, read_json, write_json

PLAIN, TEACHER = 'plain student', 'teacher'
PLAN = 'run.json'


@dataclass
class Plan:
    """What a run is; it lies in its folder as ``run.json``.

    Args:
        method (str): As the command line names it, :data:`PLAIN` or
            :data:`TEACHER`.
        seed (int): Of the run.
        position (int): Of the method in the table.
        settings (dict): What runs that are compared must share: ``student``,
            ``schedule``, ``data``, ``hooks`` and ``load_from``, parts of the
            config.
        method_settings (dict): ``hook``, ``teacher`` and what else only runs
            of one method must share.
        config (str): The file of the whole config.
    """

    method: str
    seed: int
    position: int
    settings: dict[str, Any]
    method_settings: dict[str, Any]
    config: str

    def write(self, folder: Path) -> None:
        """Write it; one that is there must say the same.

        Raises:
            ConfigError: It does not. The message names the first key that
                differs, and both values.
        """
        path = folder / PLAN
        text = json.loads(json.dumps(asdict(self), default=repr))
        if path.exists():
            old = json.loads(path.read_text())
            for part in ('settings', 'method_settings'):
                check_same(old[part], text[part], folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, text)


def check_same(old: Any, new: Any, folder: Path) -> None:
    """That what lies in a folder was made with the settings of now.

    Raises:
        ConfigError: It was not. The message names the first key that differs,
            and both values.
    """
    for key, was, now in differing(old, new):
        raise ConfigError(
            f'{key} = {now!r}, but {folder} was started with {was!r}; another '
            '--work-dir is needed, or remove that folder')


def differing(one: Any, other: Any, key: str = ''
              ) -> Iterator[tuple[str, Any, Any]]:
    """The dotted keys at which two nested values differ, with both values.

    Example:
        >>> list(differing(dict(a=dict(b=[1, 2])), dict(a=dict(b=[1, 3]))))
        [('a.b.1', 2, 3)]
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in sorted({*one, *other}, key=str):
            yield from differing(one.get(name), other.get(name),
                                 f'{key}.{name}' if key else str(name))
    elif (isinstance(one, list) and isinstance(other, list)
          and len(one) == len(other)):
        for i, (a, b) in enumerate(zip(one, other)):
            yield from differing(a, b, f'{key}.{i}')
    elif one != other:
        yield key, one, other


@dataclass
class Run:
    """A run and what has become of it.

    Args:
        folder (Path): Its work directory.
        plan (Plan): What it is.
        log (Log): What it logged.
        facts (dict): Size and cost; empty before it started.
        evaluation (dict): Of its last checkpoint; empty before that.
        failure (str): Why it failed last; empty if it did not.
    """

    folder: Path
    plan: Plan
    log: Log
    facts: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    failure: str = ''

    @property
    def checkpoint(self) -> str:
        """Its last one, or what a teacher was given with."""
        given = self.plan.method_settings.get('checkpoint')
        return given or str(self.folder / FINAL)

    @property
    def step_seconds(self) -> float:
        """Of a step without loading; NaN where it is not known.

        On a CPU the time that its cores were busy with the run, which other
        runs beside it disturb least.
        """
        return self.facts.get('cpu_seconds', self.log.step_seconds)

    def value(self, metric: str) -> float:
        """The metric of the last checkpoint; NaN where it is not there."""
        return self.evaluation.get('metrics', {}).get(metric, math.nan)

    def state(self, metric: str | None) -> str:
        """``'finished'``, or what keeps it out of the means."""
        if self.evaluation:
            if metric is None or metric not in self.evaluation['metrics']:
                return f'{metric or "a metric"} was not measured'
            if not math.isfinite(self.value(metric)):
                return f'{metric} is NaN'
            last = self.log.train.get(max(self.log.train, default=-1), {})
            if not math.isfinite(last.get('loss', 0)):
                return f'loss is {last["loss"]} at its end'
            return 'finished'
        if self.failure:
            return f'failed: {self.failure}'
        last_step = max(self.log.train, default=None)
        if last_step is None:
            return 'not started'
        total = self.facts.get('iterations', '?')
        return f'unfinished, {last_step} of {total} iterations'


def read_run(folder: Path) -> Run:
    """The run of a work directory that has a ``run.json``."""
    failure = folder / FAILURE
    return Run(
        folder, Plan(**read_json(folder / PLAN)), read_log(folder),
        read_json(folder / FACTS), read_json(folder / EVALUATION),
        failure.read_text().strip() if failure.exists() else '')


@dataclass
class Group:
    """Runs that may be compared: of one student, schedule and data set.

    Args:
        settings (dict): What they share.
        runs (list[Run]): The plain student's first.
        teacher (Run | None): Where a teacher was evaluated.
    """

    settings: dict[str, Any]
    runs: list[Run]
    teacher: Run | None = None

    @property
    def metric(self) -> str | None:
        """What the runs are compared by."""
        return first_metric(
            key for run in self.runs
            for key in run.evaluation.get('metrics', ()))

    @property
    def seeds(self) -> list[int]:
        """Those of any run."""
        return sorted({run.plan.seed for run in self.runs})

    def methods(self) -> dict[str, dict[int, Run]]:
        """The runs by method and seed, the plain student's first.

        A method that stands for several settings (other teachers, another
        version of its hook) has a number behind its name for each.
        """
        found: dict[str, dict[int, Run]] = {PLAIN: {}}
        kinds: dict[str, list[str]] = {}
        for run in self.runs:
            key = digest(run.plan.method_settings)
            known = kinds.setdefault(run.plan.method, [])
            if key not in known:
                known.append(key)
            number = known.index(key)
            name = run.plan.method + f' ({number + 1})' * (number > 0)
            found.setdefault(name, {})
            while run.plan.seed in found[name]:  # of two folders
                name += ' (again)'
                found.setdefault(name, {})
            found[name][run.plan.seed] = run
        return found


@dataclass
class Results:
    """Everything in the folders of a comparison.

    Args:
        groups (list[Group]): More than one only if runs were mixed.
        warnings (list[str]): What must be said beside the numbers.
    """

    groups: list[Group]
    warnings: list[str]


def read_results(folders: Sequence[Path]) -> Results:
    """Read the runs below the folders.

    Raises:
        ConfigError: There is none.
    """
    runs = [read_run(path.parent)
            for folder in folders for path in sorted(folder.glob(f'*/{PLAN}'))]
    runs.sort(key=lambda run: (run.plan.method != PLAIN, run.plan.position,
                               run.plan.method, run.plan.seed))
    groups: dict[str, Group] = {}
    teachers: dict[str, Run] = {}
    for run in runs:
        key = digest(run.plan.settings)
        if run.plan.method == TEACHER:
            teachers[digest(run.plan.settings['data'])] = run
        else:
            groups.setdefault(key, Group(run.plan.settings, [])
                              ).runs.append(run)
    if not groups:
        raise ConfigError(
            f'no run of a comparison in {", ".join(map(str, folders))}: there '
            f'is no */{PLAN} in it; tools/compare.py writes them')
    for group in groups.values():
        group.teacher = teachers.get(digest(group.settings['data']))
    found = list(groups.values())
    return Results(found, list(_warnings(found)))


def digest(value: Any) -> str:
    """The same for equal values."""
    text = json.dumps(value, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def _warnings(groups: Sequence[Group]) -> Iterator[str]:
    for i, group in enumerate(groups[1:], 2):
        keys = [f'{key}: {one!r} and {other!r}' for key, one, other in
                differing(groups[0].settings, group.settings)]
        yield (f'mixed: table {i} is of other runs than table 1, which are '
               'not compared with each other; ' + '; '.join(keys[:3]) +
               f' and {len(keys) - 3} further differences' * (len(keys) > 3))
    for i, group in enumerate(groups, 1):
        which = f'table {i}: ' * (len(groups) > 1)
        yield from (which + text for text in _warnings_of(group))


def _warnings_of(group: Group) -> Iterator[str]:
    methods = group.methods()
    if len({digest(run.plan.method_settings['teacher'])
            for run in group.runs
            if run.plan.method_settings.get('teacher')}) > 1:
        yield 'mixed: the methods of one table have different teachers'
    for name in methods:
        if name.endswith(')') and '(' in name:
            yield (f'mixed: {name} are runs of a method of which there '
                   'are others, with other settings or of another folder')
    if not methods[PLAIN]:
        yield 'there is no plain student: no gains'
    if len(group.seeds) == 1:
        yield ('one seed only: no deviation and no interval; two runs of '
               'one method may differ as much')
    for name, runs in methods.items():
        for seed in group.seeds if runs else ():
            state = (runs[seed].state(group.metric) if seed in runs
                     else 'missing')
            if state != 'finished':
                yield f'{name}, seed {seed}: {state}'
    if group.teacher and group.teacher.state(group.metric) not in (
            'finished', ):
        yield f'teacher: {group.teacher.state(group.metric)}'
