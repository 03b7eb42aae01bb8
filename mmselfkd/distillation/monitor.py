"""Proof in the log that distillation takes place."""
import math
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any

import torch
from mmengine.logging import MMLogger
from rich import box
from rich.console import Console
from rich.table import Table

from .agreement import AGREEMENTS

LARGE = 50  # times the task loss: then the student hardly learns the task
CONSTANT = 1e-6  # relative spread: what float32 leaves of a constant
NOTHING = 1e-8  # of the task loss: what float32 leaves of a zero
WINDOW = 20  # iterations: of the averages in the last table, and until a
#              value that does not move is called constant


def render(title: str, header: Sequence[str],
           rows: Sequence[Sequence[Any]]) -> str:
    """A plain text table."""
    table = Table(*header, title=title, title_justify='left', box=box.ASCII)
    for row in rows:
        table.add_row(*map(str, row))
    console = Console(width=160, no_color=True)
    with console.capture() as capture:
        console.print(table)
    return '\n' + capture.get()


def _number(value: Any) -> float:
    return value.item() if isinstance(value, torch.Tensor) else float(value)


class Monitor:
    """Watches the logged values of every term and says what looks wrong.

    Warns, once a loss, when its value does not change, when it is more than
    :data:`LARGE` times the task's own loss, and when it trains nothing; and,
    each time, when it is not finite.

    Args:
        names (Sequence[str]): The terms.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.first: dict[str, list[float]] = {name: [] for name in names}
        self.last: dict[str, deque[float]] = {
            name: deque(maxlen=WINDOW) for name in names}
        self.active = dict.fromkeys(names, 0)
        self.agreement: dict[str, list[float]] = {}
        self._warned: set[Any] = set()

    def update(self, outputs: dict[str, Any], weights: dict[str, float],
               iteration: int) -> None:
        """Look at what the student's ``train_step`` returned."""
        task = sum(
            abs(_number(value)) for key, value in outputs.items()
            if 'loss' in key and key != 'loss'
            and not key.startswith('distill.'))
        for name, weight in weights.items():
            if weight == 0 or f'distill.{name}' not in outputs:
                continue
            value = _number(outputs[f'distill.{name}'])
            self.active[name] += 1
            if len(self.first[name]) < WINDOW:
                self.first[name].append(value)
            self.last[name].append(value)
            self._check(name, value, task, iteration)
        for key in AGREEMENTS:
            if key in outputs:
                self.agreement.setdefault(key, []).append(
                    _number(outputs[key]))

    def check_gradients(self, name: str, alive: Sequence[bool]) -> None:
        """Warn where levels of a term's student side carry no gradient."""
        if all(alive):
            return
        idle = [str(i) for i, carries in enumerate(alive) if not carries]
        which = 'what it looks at carries' if not any(alive) else (
            f'level {", ".join(idle)} (0 to {len(alive) - 1}) of what it '
            'looks at carries')
        self._warn((name, 'idle'), f'distill.{name} trains nothing'
                   f'{" there" if any(alive) else ""}: {which} no gradient; '
                   'it is frozen, or lies inside a part that activation '
                   'checkpointing runs again')

    def check_size(self, name: str, value: float, task: float) -> None:
        """Warn where a value dwarfs the task's own loss."""
        if value > LARGE * task > 0:
            self._warn((name, 'large'), f'distill.{name} = {value:.4g} is '
                       f'{value / task:.0f} times the task loss {task:.4g}; '
                       'lower its loss_weight')

    def _check(self, name: str, value: float, task: float,
               iteration: int) -> None:
        last = self.last[name]
        if not math.isfinite(value):
            self._warn(None, f'distill.{name} is {value} in iteration '
                       f'{iteration + 1}')
        else:
            self.check_size(name, value, task)
        if len(last) < WINDOW:
            return
        most = max(map(abs, last))
        if max(last) - min(last) <= CONSTANT * most:
            self._warn((name, 'constant'), f'distill.{name} = {value:.4g} '
                       f'has not changed in {WINDOW} iterations: nothing is '
                       'learned from it')
        elif most <= NOTHING * task:
            self._warn((name, 'constant'), f'distill.{name} = {value:.4g} is '
                       f'nothing beside the task loss {task:.4g} in '
                       f'{WINDOW} iterations: nothing is learned from it')

    def _warn(self, once: Any, text: str) -> None:
        if once not in self._warned:
            MMLogger.get_current_instance().warning(text)
        if once is not None:
            self._warned.add(once)

    def summary(self) -> str:
        """The table at the end of the run."""

        def mean(values: Collection[float]) -> str:
            return f'{sum(values) / len(values):.4g}' if values else '-'

        rows = [(f'distill.{name}', self.active[name],
                 mean(self.first[name]), mean(self.last[name]))
                for name in self.active]
        for key, values in self.agreement.items():
            rows.append((key, len(values), f'{values[0]:.4g}',
                         f'{values[-1]:.4g}'))
        return render('Distillation, from first to last',
                      ('logged as', 'values', f'first {WINDOW}',
                       f'last {WINDOW}'), rows)
