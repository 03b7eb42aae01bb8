"""The queue of commands; test_saturation_run.py has more on whole queues."""
import fcntl
import os
import subprocess
import sys

import pytest

from mmselfkd.comparison.job_queue import FAILURE, Job, JobQueue, Step


@pytest.fixture
def job(tmp_path):
    """Makes a job of shell commands; each leaves a file of its number."""

    def make(name, *commands, **kwargs):
        folder = tmp_path / name
        return Job(name, folder, [
            Step(lambda i=i, command=command: [
                'sh', '-c', f'{command}; touch {folder}/{i}'],
                (folder / str(i)).exists, dict(STEP=str(i)))
            for i, command in enumerate(commands)], **kwargs)

    return make


def run(*jobs, slots=1, **kwargs):
    said = []
    slots = [dict(os.environ, SLOT=str(i)) for i in range(slots)]
    failed = JobQueue(jobs, slots, say=said.append, **kwargs).run()
    return failed, [line.partition(' ')[2] for line in said]


def test_steps_one_after_another_and_what_is_done_left_out(job):
    one = job('one', 'echo $STEP$SLOT', 'echo $STEP$SLOT')
    assert run(one) == ([], ['start one', 'finished one'])
    assert (one.folder / 'console.txt').read_text() == '00\n10\n'
    assert run(one) == ([], [])
    (one.folder / '1').unlink()
    run(one)
    assert (one.folder / 'console.txt').read_text() == '00\n10\n10\n'


def test_slots_are_used_side_by_side(job, tmp_path):
    """Each waits for the other."""
    meet = 'echo $SLOT; touch {0}; until [ -e {1} ]; do sleep 0.01; done'
    a, b = tmp_path / 'a_there', tmp_path / 'b_there'
    jobs = job('a', meet.format(a, b)), job('b', meet.format(b, a))
    assert run(*jobs, slots=2)[0] == []
    assert [(one.folder / 'console.txt').read_text() for one in jobs
            ] == ['0\n', '1\n']


def test_a_failure_keeps_the_last_words(job):
    bad = job('bad', 'echo first; echo why; exit 3')
    good = job('good', 'true')
    assert run(bad, good)[0] == ['bad']
    assert (bad.folder / FAILURE).read_text() == 'why\n'
    assert (good.folder / '0').exists()
    bad.steps = job('bad', 'true').steps
    assert run(bad)[0] == [] and not (bad.folder / FAILURE).exists()


def test_a_command_that_leaves_nothing_has_failed(job):
    idle = job('idle', 'exit 0')
    assert run(idle)[0] == ['idle']
    assert (idle.folder / FAILURE).read_text() == 'exit status 0\n'


def test_what_another_job_must_leave_first(job, tmp_path):
    late = job('late', 'true', ready=(tmp_path / 'first' / '0').exists)
    failed, said = run(late, job('first', 'true'), slots=2)
    assert failed == [] and said[0] == 'start first'
    assert said[-1] == 'finished late'


def test_what_never_becomes_ready(job):
    stuck = job('stuck', 'true', ready=lambda: False)
    assert run(job('bad', 'false; exit 1'), stuck)[0] == ['bad', 'stuck']
    assert 'what it needs' in (stuck.folder / FAILURE).read_text()


@pytest.mark.parametrize('wait', [True, False])
def test_what_another_process_runs(job, tmp_path, wait):
    one = job('one', 'true')
    one.folder.mkdir()
    holder = subprocess.Popen(
        [sys.executable, '-c',
         'import fcntl, sys\n'
         f'lock = open({str(one.folder / "lock")!r}, "w")\n'
         'fcntl.flock(lock, fcntl.LOCK_EX)\n'
         'print(flush=True)\nsys.stdin.read()'],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    holder.stdout.readline()
    looks = []

    def look():
        looks.append(one.next_step() is not None)
        if len(looks) == 3:  # it has left the job undone
            holder.communicate('')

    try:
        failed, said = run(one, wait=wait, look=look)
    finally:
        if holder.poll() is None:
            holder.kill()
            holder.communicate()
    assert failed == []
    if wait:
        assert looks[:3] == [True] * 3 and one.next_step() is None
    else:
        assert said == ['another process trains it']
        assert one.next_step() is not None


def test_a_job_of_another_process_does_not_hold_up_the_others(job, tmp_path):
    """With one slot: what is free is run while that is waited for."""
    held, free = job('held', 'true'), job('free', 'true')
    held.folder.mkdir()
    with open(held.folder / 'lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def look():
            if (free.folder / '0').exists() and not lock.closed:
                lock.close()

        failed, said = run(held, free, wait=True, look=look)
    assert failed == [] and said == [
        'start free', 'finished free', 'start held', 'finished held']


def test_a_step_that_is_given_up_ends(job, tmp_path):
    """What it is called is up to the job; it has not failed."""
    marker = tmp_path / 'enough'
    long = job('long', 'touch $0; exec sleep 60'.replace('$0', str(marker)))
    step, = long.steps
    step.given_up = step.done = marker.exists
    long.ended = lambda: 'pruned'
    assert run(long, job('next', 'true')) == ([], [
        'start long', 'pruned long', 'start next', 'finished next'])
    assert not (long.folder / FAILURE).exists()


def test_nothing_is_left_running(job, tmp_path):
    pid = tmp_path / 'pid'
    long = job('long', f'echo $$ > {pid}.part; mv {pid}.part {pid}; '
                       'exec sleep 60')

    def look():
        if pid.exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(long, look=look)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
