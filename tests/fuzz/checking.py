"""What is wrong with the outcome of a case."""
import copy
import math
import traceback
from pathlib import Path

import torch
from helpers import assert_clean
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS

from mmselfkd import ConfigError, DistillHook, losses

from .cases import LOSSES, STEPS, Case
from .models import heads_of
from .running import Outcome, run

SHARES = ('distill.agreement', 'distill.cka', 'distill.teacher_accuracy')


def problems_of(case: Case, folder: Path) -> list[str]:
    """Run a case; empty if all is well."""
    with torch.random.fork_rng():
        outcome = run(case, folder)
    runner, error = outcome.runner, outcome.error
    problems = [] if runner is None else _traces(runner)
    if error is None and case.expected == 'error':
        return problems + ['was accepted']
    if error is None:
        return (problems + outcome.watch.problems + _wrong_values(outcome)
                + _not_void(case, outcome)
                + _unlike_twin(case, outcome, folder)
                + _wrong_checkpoint(case, outcome, folder))
    if case.expected == 'train' or not isinstance(error, ConfigError):
        problems.append(''.join(traceback.format_exception(error)[-4:]))
        if case.expected == 'train':
            problems += _plain_problems(case, folder)
        return problems
    if runner is not None and runner.iter != 0:
        problems.append(f'refused after {runner.iter} iterations')
    if case.says not in str(error):
        problems.append(f'{case.says!r} is not named in: {error}')
    return problems


def _traces(runner) -> list[str]:
    """What is left of the hook."""
    try:
        assert_clean(runner)
    except AssertionError as error:
        return [f'something is left: {error}']
    return []


def _wrong_values(outcome: Outcome) -> list[str]:
    """Of the log, and of the weights after training."""
    problems = []
    if len(outcome.logs) != STEPS:
        problems.append(f'made {len(outcome.logs)} steps')
    for number, log in enumerate(outcome.logs):
        bad = {k: v for k, v in log.items() if not math.isfinite(v)}
        if bad:
            problems.append(f'iteration {number}: {bad}')
        parts = sum(v for k, v in log.items() if 'loss' in k and k != 'loss')
        if not bad and abs(log['loss'] - parts) > 1e-3 * (1 + abs(parts)):
            problems.append(f'iteration {number}: loss {log["loss"]} is not '
                            f'the sum {parts} of {log}')
        if not all(-1e-4 <= log.get(name, 0) <= 1 + 1e-4 for name in SHARES):
            problems.append(f'iteration {number}: {log}')
    expected = {
        f'distill.{loss.name}' for hook in outcome.runner.hooks
        if isinstance(hook, DistillHook) for loss in hook.plan.used}
    if any(not expected <= set(log) for log in outcome.logs):
        problems.append(f'not all of {expected} are logged')
    problems += [f'{name} is not finite' for name, value in
                 outcome.runner.model.state_dict().items()
                 if not value.isfinite().all()]
    return problems


def _not_void(case: Case, outcome: Outcome) -> list[str]:
    """Where no label counts, no loss that reads labels says anything."""
    if case.void != 'all':
        return []
    used = [config for hook in outcome.runner.hooks
            if isinstance(hook, DistillHook) for config in hook.plan.used]
    return [f'{config.name} is {log[name]} where no label counts'
            for log in outcome.logs for config in used
            if (name := f'distill.{config.name}') in log
            and config.loss.needs_label
            and config.loss.ignore_index == case.ignored and log[name] != 0]


def _unlike_twin(case: Case, outcome: Outcome, folder: Path) -> list[str]:
    """A run that differs in one thing agrees in what that does not change."""
    used = [name for name in case.terms  # a weight of 0 leaves one out
            if f'distill.{name}' in outcome.logs[0]]
    if not case.twin or not used:
        return []
    twin = copy.deepcopy(case)
    twin.files = {}  # they are there, and random
    if case.twin == 'plain':
        _distil_nothing(twin)
    elif case.twin == 'single':
        for head in heads_of(twin.cfg['model']):
            head['loss_decode'], = (
                loss for loss in head['loss_decode']
                if loss['type'] == 'CrossEntropyLoss')
    else:
        used = used[-1:]
        entry, full = case.terms[used[0]]
        if _is_drawn(full['type']):
            return []
        twin.hook['losses'] = {used[0]: entry}
    with torch.random.fork_rng():
        other = run(twin, folder / 'twin')
    if other.error is not None:
        return [f'the twin ({case.twin}) fails: {other.error!r}']
    if case.twin == 'plain':
        ours, theirs = (
            [image for batch in x.watch.batches for image in batch]
            for x in (outcome, other))
        same = len(ours) == len(theirs) and all(
            map(torch.equal, ours, theirs))
        return [] if same else ['the student sees other batches than without']
    first, alone = (
        {name: x.logs[0][f'distill.{name}'] for name in used}
        for x in (outcome, other))
    return [f'{name} is {first[name]} at first, with {case.twin} {alone[name]}'
            for name in used
            if abs(first[name] - alone[name]) > 1e-4 * (1e-6 + abs(
                first[name]))]


def _is_drawn(kind: str) -> bool:
    """Whether a loss has weights that are drawn at the start."""
    loss = LOSSES[kind]
    return (loss.is_adversarial or loss.channels == 'adapt'
            or loss.build is not losses.DistillationLoss.build)


def _distil_nothing(case: Case) -> None:
    """Leave the student alone."""
    case.cfg['custom_hooks'] = [
        hook for hook in case.cfg['custom_hooks'] if hook['type'] == 'EMAHook']


def _wrong_checkpoint(case: Case, outcome: Outcome,
                      folder: Path) -> list[str]:
    """It has to be that of a plain run, and ours apart from it."""
    problems = []
    plain = MODELS.build(ConfigDict(dict(
        case.cfg['model'], _scope_=case.cfg.get('default_scope', 'mmseg'))))
    names = list(plain.state_dict())
    last = (folder / 'work_dir' / 'last_checkpoint').read_text()
    saved = torch.load(last, weights_only=False)
    if list(saved['state_dict']) != names or list(
            outcome.runner.model.state_dict()) != names:
        problems.append('the saved keys are not those of the plain model')
    if 'ema_state_dict' in saved and set(saved['ema_state_dict']) != {
            'steps', *(f'module.{name}' for name in names)}:
        problems.append('the saved average is not that of the plain model')
    expected = build_optim_wrapper(plain, case.cfg['optim_wrapper'])
    counts = [[len(group['params']) for group in groups] for groups in (
        saved['optimizer']['param_groups'],
        expected.optimizer.param_groups)]
    if counts[0] != counts[1]:
        problems.append('the saved optimizer has {} parameters in {} groups, '
                        'the plain one {} in {}'.format(*(
                            f(count) for count in counts for f in (sum, len))))
    if set(saved['mmselfkd']['modules']) != set(outcome.watch.trained):
        problems.append('what is trained along is not what is saved')
    return problems


def _plain_problems(case: Case, folder: Path) -> list[str]:
    """Whether the student alone trains: if not, the fuzz is to blame."""
    plain = copy.deepcopy(case)
    _distil_nothing(plain)
    error = run(plain, folder / 'plain').error
    return [] if error is None else [f'the plain run fails too: {error!r}']
