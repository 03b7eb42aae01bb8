"""Running a case."""
import copy
import pprint
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import tiny_runs
import torch
from helpers import Logs
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, OPTIM_WRAPPERS

from .cases import Case
from .watching import Watch


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """What AmpOptimWrapper, which wants a GPU, does to the forward pass."""

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast(
                'cpu', dtype=torch.bfloat16):
            yield


@dataclass
class Outcome:
    """What became of a case.

    Attributes:
        runner (Runner | None): None: it could not be built.
        logs (list[dict]): What the iterations logged.
        watch (Watch): What was looked at.
        error (Exception | None): What ended the run.
    """
    watch: Watch
    runner: Any = None
    logs: list[dict] = field(default_factory=list)
    error: Exception | None = None


def run(case: Case, folder: Path) -> Outcome:
    """Build a Runner of the case and train."""
    folder.mkdir(exist_ok=True)
    write(case)
    cfg = Config(copy.deepcopy(case.cfg))
    cfg.work_dir = str(folder / 'work_dir')
    outcome, logs = Outcome(Watch(case)), Logs()
    try:
        # mmengine lays the config out several times, for longer than we train
        with mock.patch.object(Config, 'pretty_text', ''):
            outcome.runner = tiny_runs.build(cfg)
            outcome.runner.register_hook(logs)
            outcome.runner.register_hook(outcome.watch)
            outcome.runner.train()
    except Exception as error:
        outcome.error = error
    outcome.logs = logs.entries
    if outcome.runner is not None:
        logger = outcome.runner.logger
        for handler in logger.handlers[:]:
            handler.close()  # a closed one must not stay: mmengine writes to
            logger.removeHandler(handler)  # the last run's logger
    return outcome


def write(case: Case) -> None:
    """The files of the case."""
    for path, content in case.files.items():
        if isinstance(content, str):
            Path(path).write_text(content)
        elif isinstance(content, bytes):
            Path(path).write_bytes(content)
        elif content[0] == 'torch':
            torch.save(content[1], path)
        else:
            kind, model = content
            built = MODELS.build(dict(model, _scope_='mmseg'))
            state = {k: v for k, v in built.state_dict().items()
                     if 'auxiliary_head' not in k}
            if kind == 'numbers':
                state = dict.fromkeys(state, 5)
            meta = dict(weights={}, meta=5, classes=dict(
                dataset_meta=dict(classes=5)), numbers={})[kind]
            torch.save(dict(state_dict=state, meta=meta), path)


def replay(case: Case) -> str:
    """The config as Python."""
    text = pprint.pformat(case.cfg, sort_dicts=False, width=79)
    return f'from math import inf, nan\n\n# {case.label}\ncfg = {text}\n'
