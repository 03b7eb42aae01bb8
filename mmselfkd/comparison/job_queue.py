"""Runs commands side by side; what is done already is left out."""
import fcntl
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

FAILURE = 'failure.txt'  # in the folder of a job: why it failed last
POLL = 0.1  # seconds


@dataclass
class Step:
    """One command of a job.

    Args:
        command (Callable): Gives the command, when it is started.
        done (Callable): Whether nothing of it is left to do.
        env (Mapping[str, str]): Changes to the environment.
        given_up (Callable): Whether it shall end although it is not done. It
            must count as done from then on.
    """

    command: Callable[[], Sequence[str]]
    done: Callable[[], bool]
    env: Mapping[str, str] = field(default_factory=dict)
    given_up: Callable[[], bool] = lambda: False


@dataclass
class Job:
    """Commands that run one after another, in a process each.

    Args:
        name (str): For the messages.
        folder (Path): Its lock, ``console.txt`` and ``failure.txt`` lie there.
        steps (Sequence[Step]): In their order.
        ready (Callable): Whether the job can be started.
        ended (Callable): What to call it once all steps are done.
    """

    name: str
    folder: Path
    steps: Sequence[Step]
    ready: Callable[[], bool] = lambda: True
    ended: Callable[[], str] = lambda: 'finished'

    def next_step(self) -> Step | None:
        """The first step that is not done."""
        return next((step for step in self.steps if not step.done()), None)


@dataclass
class _Active:
    job: Job
    slot: int
    lock: IO[str]
    step: Step | None = None
    process: subprocess.Popen | None = None


class JobQueue:
    """Runs jobs, as many at a time as there are slots.

    The lock of a job lasts as long as its process does, even if the queue is
    killed. So several queues may work on the same jobs.

    Args:
        jobs (Sequence[Job]): In their order.
        slots (Sequence[Mapping]): The environment of each slot, the job's own
            variables included.
        wait (bool): Wait for what another process runs, and take it over when
            that has ended; if not, leave it alone. Defaults to False.
        say (Callable): Takes a line of text. Defaults to print.
        look (Callable): Called over and over while jobs run.
    """

    def __init__(self, jobs: Sequence[Job],
                 slots: Sequence[Mapping[str, str]], wait: bool = False,
                 say: Callable[[str], None] | None = None,
                 look: Callable[[], None] = lambda: None) -> None:
        self.pending = list(jobs)
        self.slots = slots
        self.wait = wait
        self.say = say or (lambda text: print(text, flush=True))
        self.look = look
        self.active: list[_Active] = []
        self.failed: list[str] = []

    def run(self) -> list[str]:
        """Run all; the names of the jobs that failed.

        Whatever ends it, no process of its own is left.
        """
        try:
            while self.pending or self.active:
                self._start_some()
                for active in list(self.active):
                    self._proceed(active)
                self.look()
                if self.pending or self.active:
                    time.sleep(POLL)
        finally:
            self._stop()
        return self.failed

    def _start_some(self) -> None:
        elsewhere = False
        for job in list(self.pending):
            if len(self.active) == len(self.slots):
                return
            if not job.ready():
                continue
            job.folder.mkdir(parents=True, exist_ok=True)
            lock = _locked(job.folder / 'lock')
            if lock is None and self.wait:
                elsewhere = True
                continue
            self.pending.remove(job)
            if lock is None:
                self.say(f'{job.name}: another process trains it')
                continue
            used = {active.slot for active in self.active}
            free = min(set(range(len(self.slots))) - used)
            active = _Active(job, free, lock)
            self.active.append(active)
            self._next(active)
        if not self.active and not elsewhere:  # nothing makes them ready
            for job in self.pending:
                self._fail(job, 'what it needs has failed')
            self.pending.clear()

    def _next(self, active: _Active) -> None:
        """Start the next step, if there is one."""
        job = active.job
        active.step = job.next_step()
        if active.step is None:
            if active.process is not None:
                self._told(job.ended(), job)
            self._release(active)
            return
        if active.process is None:
            self._told('start', job)
        (job.folder / FAILURE).unlink(missing_ok=True)
        with open(job.folder / 'console.txt', 'a') as console:
            active.process = subprocess.Popen(
                list(map(str, active.step.command())), stdout=console,
                stderr=subprocess.STDOUT,
                env={**self.slots[active.slot], **active.step.env},
                pass_fds=[active.lock.fileno()])

    def _proceed(self, active: _Active) -> None:
        assert active.process is not None and active.step is not None
        given_up = active.step.given_up()
        if given_up:
            _end(active.process)
        code = active.process.poll()
        if code is None:
            return
        if given_up or code == 0 and active.step.done():
            self._next(active)
            return
        self._fail(active.job, _last_words(active.job.folder) or (
            f'exit status {code}'))
        self._release(active)

    def _fail(self, job: Job, reason: str) -> None:
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / FAILURE).write_text(reason + '\n')
        self.failed.append(job.name)
        self._told('failed', job)

    def _release(self, active: _Active) -> None:
        self.active.remove(active)
        active.lock.close()

    def _told(self, what: str, job: Job) -> None:
        self.say(f'{time.strftime("%H:%M:%S")} {what} {job.name}')

    def _stop(self) -> None:
        """End what still runs."""
        for active in self.active:
            if active.process is not None:
                active.process.terminate()
        for active in list(self.active):
            if active.process is not None:
                active.process.wait()
            self._release(active)


def _locked(path: Path) -> IO[str] | None:
    """The lock; None while another process has it."""
    lock = open(path, 'w')
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    process.wait()


def _last_words(folder: Path) -> str:
    """The last line that the process wrote."""
    lines = (folder / 'console.txt').read_text(errors='replace').split('\n')
    return next((line.strip() for line in reversed(lines) if line.strip()), '')
