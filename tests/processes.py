"""Processes that a test starts beside each other."""


def finish(processes, timeout):
    """Wait for all; fail with the output of one that failed, leave none."""
    try:
        outputs = [process.communicate(timeout=timeout)[0]
                   for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs):
        assert process.returncode == 0, output
