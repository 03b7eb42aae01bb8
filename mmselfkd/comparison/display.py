"""The progress of runs: a table in a terminal, else plain lines."""
import math
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from .job_queue import FAILURE, Job
from .logs import read_log
from .recording import FACTS, read_json

INTERVAL = 2.0  # seconds between looks at the logs


class Display:
    """A live table of jobs; used as a context.

    Args:
        jobs (Sequence[Job]): In the order of the table.
        slots (int): How many run at a time.
        console (Console): Defaults to one on stdout.
    """

    def __init__(self, jobs: Sequence[Job], slots: int,
                 console: Console | None = None) -> None:
        self.jobs, self.slots = jobs, slots
        self.console = console or Console()
        self.live = Live(console=self.console, auto_refresh=False
                         ) if self.console.is_terminal else None
        self.looked = -math.inf

    def __enter__(self) -> 'Display':
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.live is not None:
            self.live.update(self.table(), refresh=True)
            self.live.stop()

    def say(self, text: str) -> None:
        """A line of text; the table is drawn below it."""
        self.console.print(text, markup=False, highlight=False,
                           soft_wrap=True)

    def look(self) -> None:
        """Draw the table anew, if it is time to."""
        if self.live is None or time.monotonic() < self.looked + INTERVAL:
            return
        self.looked = time.monotonic()
        self.live.update(self.table(), refresh=True)

    def table(self) -> Table:
        """The jobs and how far they are."""
        table = Table('run', 'state', 'iteration', 'loss', 'left')
        rests, wholes = [], []
        for job in self.jobs:
            state, iteration, loss, left, whole = progress(job)
            rests.append(left)
            wholes.append(whole)
            table.add_row(job.name, state, iteration, loss, duration(left))
        known = [whole for whole in wholes if not math.isnan(whole)]
        # of a run that has not begun: as long as the others
        typical = sum(known) / len(known) if known else math.nan
        rest = sum(typical if math.isnan(left) else left for left in rests)
        table.caption = f'all: {duration(rest / self.slots)} left'
        return table


def progress(job: Job) -> tuple[str, str, str, float, float]:
    """State, iteration, loss, the seconds that are left, and those of all.

    The seconds are NaN before the first iteration was logged.
    """
    log = read_log(job.folder)
    last = max(log.train, default=0)
    total = read_json(job.folder / FACTS).get('iterations', math.nan)
    loss = log.train[last]['loss'] if last else math.nan
    if job.next_step() is None:
        state, left = job.ended(), 0.0
    elif (job.folder / FAILURE).exists():
        state, left = 'failed', 0.0
    elif not last:
        state, left = 'waits', math.nan
    else:
        state, left = 'trains', (total - last) * log.step_seconds
    return (state, f'{last} of {total}' if last else '',
            f'{loss:.3f}' if last else '', left,
            total * log.step_seconds)


def duration(seconds: float) -> str:
    """``1:05:00``; ``-`` where it is not known."""
    if math.isnan(seconds):
        return '-'
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}'
