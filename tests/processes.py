"""Processes that a test starts beside each other."""
import os
import socket


def free_port():
    """A port that nobody takes before the started processes listen on it.

    Ports for outgoing connections begin at 32768; one of those may be given
    to another process between its choice here and its use.
    """
    for step in range(10000):
        port = 20000 + (50 * os.getpid() + step) % 10000
        with socket.socket() as probe:
            try:
                probe.bind(('127.0.0.1', port))
            except OSError:
                continue
        return port
    raise OSError('no port is free')


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
