"""A search over the arguments of a method, by Optuna."""
import fcntl
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.hooks import CheckpointHook

from ..errors import ConfigError, nearest
from .logs import METRICS, first_metric, read_log
from .recording import EVALUATION, FACTS, FINAL, read_json, write_json
from .results import PLAN, Run, check_same, read_run
from .search_space import SearchSpace, rounded

optuna: Any = import_module('optuna') if find_spec('optuna') else None

STORAGE, PRUNED, STUDY = 'study.db', 'pruned.json', 'study.json'
# of a validation's record, beside its metrics
TIMES = ('data_time', 'time', 'step')
# trials before the sampler learns from others, and before one is pruned
START = 5
# of a run: a trial is not pruned before, since weights may rise first
WARM_UP = 0.25


def sign_of(metric: str | None) -> int:
    """1 where more is better, -1 where less is, 0 where it is not known.

    What a table does not know is judged as mmengine's ``save_best`` does.
    """
    if metric in METRICS:
        return METRICS[metric].sign
    for sign, keys in ((1, CheckpointHook._default_greater_keys),
                       (-1, CheckpointHook._default_less_keys)):
        if any(key.lower() in (metric or '').lower() for key in keys):
            return sign
    return 0


class Trial(NamedTuple):
    """One trial, as its folder shows it.

    Args:
        number (int): 0 is the preset as shipped.
        state (str): ``'finished'``, ``'pruned ...'`` or as of a run.
        value (float): The metric as logged; NaN if it has none.
        values (dict): What was tried, by key of the search space.
    """

    number: int
    state: str
    value: float
    values: dict[str, Any]


class Study:
    """The trials of one method: folders of runs, and Optuna's storage.

    What has become of a trial is read from its folder; the storage learns of
    it in :meth:`settle`. So whichever process is killed, nothing is lost.

    Args:
        folder (Path): Of all runs and of the storage.
        name (str): Of the study; the folder of trial i is ``NAME-triali``.
        space (SearchSpace): What is searched.
        settings (dict): What must be the same when it goes on.
        metric (str | None): By which trials are judged. Defaults to the first
            one that is measured and known.
        seed (int): Of the sampler. Defaults to 0.

    Raises:
        ConfigError: Optuna is missing, the metric is not known, or the folder
            has a study of other settings.
    """

    def __init__(self, folder: Path, name: str, space: SearchSpace,
                 settings: dict[str, Any], metric: str | None = None,
                 seed: int = 0) -> None:
        if optuna is None:
            raise ConfigError("tuning needs Optuna: pip install 'optuna>=4'")
        if metric is not None and not sign_of(metric):
            raise ConfigError(f'--metric {metric!r}: it is not known whether '
                              'more or less of it is better' +
                              nearest(metric, METRICS))
        self.folder, self.name, self.space = folder, name, space
        self.asked_metric, self.seed = metric, seed
        folder.mkdir(parents=True, exist_ok=True)
        settings = dict(settings, metric=metric, space={
            key: list(entry) if isinstance(entry, tuple) else entry
            for key, entry in space.entries.items()})
        path = folder / f'{name}-{STUDY}'
        if path.exists():
            check_same(read_json(path), settings, path)
        write_json(path, settings)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self._locked():
            self.study = optuna.create_study(
                study_name=name, direction='maximize', load_if_exists=True,
                storage=f'sqlite:///{folder / STORAGE}')
            if not self.study.trials:
                self.study.enqueue_trial(space.shipped)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time adds trials, so that numbers have no gaps."""
        with open(self.folder / f'{STORAGE}.lock', 'w') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def folder_of(self, number: int) -> Path:
        """The work directory of a trial."""
        return self.folder / f'{self.name}-trial{number}'

    def ask(self, number: int) -> dict[str, Any]:
        """What a trial tries; the same however often it is asked.

        Returns:
            dict: Arguments of the hook by dotted key. Empty for trial 0.
        """
        self.settle()
        with self._locked():
            self.study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=START, constant_liar=True,
                # of each trial its own, since a sampler is not stored
                seed=1000 * self.seed + number)
            trials = self.study.get_trials(deepcopy=False)
            while len(trials) <= number:
                self.study.ask()
                trials = self.study.get_trials(deepcopy=False)
            trial = optuna.Trial(self.study, trials[number]._trial_id)
            values = self.space.suggest(trial)
        return {} if number == 0 else self.space.options(values)

    def settle(self) -> None:
        """Tell Optuna what the running trials have measured, and prune.

        Raises:
            ConfigError: The metric is not among what is measured.
        """
        with self._locked():
            self._settle()

    def _settle(self) -> None:
        for frozen in self.study.get_trials(
                deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
            folder = self.folder_of(frozen.number)
            if not folder.exists():
                continue
            trial = optuna.Trial(self.study, frozen._trial_id)
            self._report(trial, frozen.intermediate_values, folder)
            evaluation = read_json(folder / EVALUATION)
            value = self._signed(evaluation.get('metrics', {}))
            if math.isfinite(value):
                self.study.tell(trial, value, skip_if_finished=True)
            elif evaluation or (folder / PRUNED).exists():
                states = optuna.trial.TrialState
                self.study.tell(
                    trial, state=states.FAIL if evaluation else states.PRUNED,
                    skip_if_finished=True)

    def _report(self, trial: Any, known: Container[int],
                folder: Path) -> None:
        """Its validations; prunes the trial if they are below the others.

        Optuna's median pruner: its best so far is below the median of the
        finished trials at the same iteration.
        """
        total = read_json(folder / FACTS).get('iterations', math.inf)
        for step, record in sorted(read_log(folder).evaluations.items()):
            value = self._signed(record)
            if step in known or not math.isfinite(value):
                continue
            trial.report(value, step)
            self.study.pruner = optuna.pruners.MedianPruner(
                n_startup_trials=START - 1,
                n_warmup_steps=math.ceil(WARM_UP * min(total, 1e9)))
            if (trial.number > 0 and step < total and trial.should_prune()
                    and not (folder / FINAL).exists()):
                write_json(folder / PRUNED, dict(
                    step=step, iterations=total, metrics=record))
                return

    def metric(self, measured: Any = ()) -> str | None:
        """The metric; by default the first known one of what is measured.

        Raises:
            ConfigError: The one that was asked for is not among them.
        """
        if self.asked_metric is None:
            return first_metric(key for key in measured if sign_of(key))
        if measured and self.asked_metric not in measured:
            raise ConfigError(
                f'--metric {self.asked_metric!r}: val does not measure it' +
                nearest(self.asked_metric, filter(sign_of, measured)))
        return self.asked_metric

    def _signed(self, measured: Mapping[str, Any]) -> float:
        """The metric so that more is better, for Optuna; NaN without one.

        mmdet's COCO metric returns nothing where no box is found.
        """
        measured = {key: value for key, value in measured.items()
                    if key not in TIMES}
        key = self.metric(measured)
        if measured and key is None:
            raise ConfigError('--metric: none of what val measures is known: '
                              f'{", ".join(measured)}')
        return sign_of(key) * float(measured.get(key or '', math.nan))

    def trials(self, most: int) -> list[Trial]:
        """The first ``most`` trials, as far as they have begun."""
        found = []
        for frozen in self.study.get_trials(deepcopy=False)[:most]:
            folder = self.folder_of(frozen.number)
            state, value = 'not started', math.nan
            if (folder / PLAN).exists():
                state, value = self._state(read_run(folder))
            found.append(Trial(frozen.number, state, value, {
                key: rounded(frozen.params.get(key))
                for key in self.space.entries}))
        return found

    def _state(self, run: Run) -> tuple[str, float]:
        pruned = read_json(run.folder / PRUNED)
        if pruned and not run.evaluation:
            return (f'pruned at {pruned["step"]} of {pruned["iterations"]}',
                    pruned['metrics'][self.metric(pruned['metrics'])])
        key = self.metric(run.evaluation.get('metrics', ()))
        return run.state(key), run.value(key or '')

    def best(self, trials: Sequence[Trial]) -> Trial | None:
        """The finished trial with the best metric; the first of equal ones."""
        sign = sign_of(self.metric_of(trials))
        return max((trial for trial in trials if trial.state == 'finished'),
                   key=lambda trial: sign * trial.value, default=None)

    def metric_of(self, trials: Sequence[Trial]) -> str | None:
        """The metric of trials; None if none of them has measured one."""
        for trial in trials:
            key = self.metric(read_json(
                self.folder_of(trial.number) / EVALUATION).get('metrics', ()))
            if key is not None:
                return key
        return self.asked_metric
