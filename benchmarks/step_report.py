"""What ``step_cost.py`` says of the steps it has measured."""
import numpy as np
from measuring import machine, table, told

STEPS = ('step', 'from iteration', 'losses on', 'ms', 'plain steps a step',
         'teacher ms', 'floor ms', 'ratio to floor')
MEMORY = ('step', 'MiB', 'teacher MiB', 'floor MiB', 'ratio to floor',
          'teacher parameters', 'extra trained parameters', 'checkpoint MiB')
CACHED = ('step', 'plain steps a step', 'without cache',
          'ratio to what is left', 'reading ahead, ms')
CHANGES = ('options of the teacher', 'ratio of its ms', 'ratio of the step',
           'distance')
LEGEND = """\
Times, MiB and ratios are medians over the rounds with the quartiles in \
brackets; a ratio is taken within each round. The floor is the plain step \
and, in the same round, one forward of the teachers that are models of their \
own, to the deepest tap. Loading data is not in the times. *losses on*: \
distillation losses with a weight above 0 throughout, of all; *from \
iteration*: of the configured run, where the rounds begin.

{}
MiB: the weights, gradients and optimizer states that stay, teachers and \
discriminators included, plus the peak of what one step allocates ({}), of {} \
steps after the timed ones. *teacher MiB*: the peak of its forward alone. The \
floor is what stays of the plain step and the teacher's weights, plus the \
larger of the two peaks, since one comes after the other. *checkpoint*: the \
file of weights and optimizer states that the run saves."""


def step_row(variant):
    """The cells of a variant in the table of times."""
    times, taught = np.array(variant.times), np.array(variant.teaching)
    plain, cells = variant.plain, dict.fromkeys(STEPS, '-')
    cells['step'] = variant.name
    cells['from iteration'] = str(variant.began)
    cells['ms'] = told(times, 1)
    if variant.losses:
        cells['losses on'] = f'{min(variant.active)} of {variant.losses}'
    if plain is not None:
        cells['plain steps a step'] = told(times / plain.times, 2)
    if plain is not None and variant.forwards:
        floor = np.array(plain.times) + taught
        cells['teacher ms'] = told(taught, 1)
        cells['floor ms'] = told(floor, 1)
        cells['ratio to floor'] = told(times / floor, 2)
    return cells.values()


def memory_row(variant):
    """The cells of a variant in the table of memory."""
    plain, cells = variant.plain, dict.fromkeys(MEMORY, '-')
    memory = np.array(variant.resident) + variant.peak
    cells['step'] = variant.name
    cells['MiB'] = told(memory / 2**20, 1)
    cells['checkpoint MiB'] = f'{variant.saved / 2**20:.1f}'
    if plain is not None:
        cells['teacher parameters'] = f'{variant.taught:,}'
        cells['extra trained parameters'] = f'{variant.extra:,}'
    if plain is not None and variant.forwards:
        taught = np.array(variant.taught_peak)
        floor = (np.array(plain.resident) + variant.weights +
                 np.maximum(plain.peak, taught))
        cells['teacher MiB'] = told(taught / 2**20, 1)
        cells['floor MiB'] = told(floor / 2**20, 1)
        cells['ratio to floor'] = told(memory / floor, 2)
    return cells.values()


def change_row(variant):
    """What the options of a teacher change."""
    default = variant.default
    distance = max((own.float() - x).norm() / x.norm() for own, x in zip(
        variant.taught_levels, (x.float() for x in default.taught_levels)))
    return (variant.name,
            told(np.array(variant.teaching) / default.teaching, 2),
            told(np.array(variant.times) / default.times, 2),
            f'{distance:.0e}')


def cached_row(variant):
    """What a step takes whose teacher was asked before."""
    times, live = np.array(variant.times), variant.live
    left = np.array(live.times) - live.teaching
    return (variant.name, told(times / variant.plain.times, 2),
            told(np.array(live.times) / live.plain.times, 2),
            told(times / left, 2), told(variant.reading, 2))


def report(variants, *notes):
    """Where it was measured, the tables, and what their columns are."""
    runner = variants[0].loop.runner
    device = next(runner.model.parameters()).device
    shapes = sorted({'x'.join(map(str, v.leader.shape)) for v in variants})
    seeds = sorted({str(v.loop.runner.seed) for v in variants})
    method = ("the peak of CUDA's caching allocator" if device.type == 'cuda'
              else "torch's profiler: every tensor on the CPU")
    parts = [
        machine(device, f'batch {" and ".join(shapes)}',
                f'{len(variants[0].times)} rounds',
                f'seed {" and ".join(seeds)}', *notes), '',
        table(STEPS, map(step_row, variants)), LEGEND.format(
            table(MEMORY, map(memory_row, variants)), method,
            len(variants[0].peak))]
    changed = [variant for variant in variants if variant.default]
    if changed:
        parts += ['', table(CHANGES, map(change_row, changed)), (
            'Ratios to the teacher without options, within each round; '
            '*distance*: of what the taps give, relative to that without, '
            'the largest.')]
    cached = [variant for variant in variants if variant.live]
    if cached:
        parts += ['', table(CACHED, map(cached_row, cached)), (
            'Every answer is stored. *ratio to what is left*: to the step '
            "without a cache less its teacher's forward, which is the plain "
            'step and the losses alone. *reading ahead*: what the workers of '
            'the loader do more for a batch, beside the step.')]
    return '\n'.join([*parts, *(f'\n{compared(variant)}'
                               for variant in variants if variant.ours)])


def compared(theirs):
    """What the same distillation costs by this project and by mmrazor."""
    ours = theirs.ours
    return (f'{ours.name} takes '
            f'{told(np.array(ours.times) / theirs.times, 2)} of the time of '
            'mmrazor and its checkpoint '
            f'{ours.saved / theirs.saved:.2f} of the space.')
