"""Time, memory and how both are told: what the benchmarks share."""
import argparse
import platform
import time
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile


def make_parser(description, rounds):
    """The arguments that the benchmarks share.

    Args:
        description (str): Of the benchmark.
        rounds (int): Timed rounds by default.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        '--iters',
        type=at_least(1),
        default=rounds,
        help=f'timed rounds, by default {rounds}')
    parser.add_argument(
        '--cpu-time',
        action='store_true',
        help='count the CPU time of this process, not the time on the clock: '
        'for one thread on a CPU with other work')
    parser.add_argument('--out', type=Path, help='a file for the table, too')
    parser.add_argument(
        '--device-note', default='', help='what else to say of the machine')
    return parser


def at_least(least):
    """The type of an argument: an integer that is not below ``least``."""

    def integer(text):
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f'{text}: must be {least} or '
                                             'more')
        return value

    return integer


def write(text, out):
    """Print the result and write it to the file ``out``, if there is one."""
    print(f'\n{text}')
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(f'{text}\n')


def milliseconds(work, device, cpu_time=False):
    """How long ``work()`` takes.

    Args:
        work (Callable): What to time.
        device (torch.device): Where it runs.
        cpu_time (bool): Count what this process uses of the CPU, not what the
            clock says: on a machine that does other work as well.
    """
    clock = time.process_time if cpu_time else time.perf_counter
    wait(device)
    begin = clock()
    work()
    wait(device)
    return 1000 * (clock() - begin)


def wait(device):
    """Until ``device`` has done what it was given."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def peak_bytes(work, device):
    """Most bytes of tensors that ``work()`` holds at a time."""
    if device.type == 'cuda':
        wait(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(
            activities=[ProfilerActivity.CPU],
            profile_memory=True) as profiler:
        work()
    # one event for each allocation and, with negative bytes, for its end;
    # the trace that torch exports says the same, in much more memory
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), place, event.nbytes())
                     for place, event in enumerate(events)
                     if event.name() == '[memory]')
    return int(np.cumsum([0, *(size for *_, size in changes)]).max())


def told(values, digits):
    """The median and, in brackets, the quartiles."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return f'{median:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})'


def table(header, rows):
    """Markdown."""
    lines = [header, ['-'] * len(header), *rows]
    return ''.join(f'| {" | ".join(cells)} |\n' for cells in lines)


def machine(device, *about):
    """The line that says where and how something was measured."""
    threads = torch.get_num_threads()
    name = _processor()
    if device.type == 'cuda':
        name = f'{torch.cuda.get_device_name(device)}, {name}'
    return '; '.join([
        name, f'{threads} thread{"s" if threads > 1 else ""}',
        f'torch {torch.__version__}', *filter(None, about)])


def _processor():
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(': ')[2] for line in lines
             if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()
