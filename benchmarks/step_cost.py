"""What a training step with distillation costs, against the plain step.

Builds a Runner for every config, and for the configs with distillation one
for the same student without it. All of them live in one process and make one
training iteration each, round by round, on the same batch and in rotating
order, so that whatever else the machine does meets all alike. Prints
markdown tables of time and memory. A config without distillation among others
is compared as well: how far its ratio is from 1 tells the noise. With
--mmrazor and --teacher-options each distillation is made in other ways too.
"""
import argparse
import copy
import dataclasses
import os
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tools_path  # noqa: F401
import torch
from measuring import at_least, make_parser, milliseconds, peak_bytes, write
from mmengine.config import DictAction
from mmengine.runner import IterBasedTrainLoop, Runner
from step_report import report
from step_variants import (
    line_up,
    stripped,
    with_cache,
    with_mmrazor,
    with_options,
)
from torch import nn
from train import load_config

from mmselfkd import DistillHook
from mmselfkd.distillation import ENTRY
from mmselfkd.hooks.setup import optim_wrappers, unwrapped
from mmselfkd.hosts import host_of
from mmselfkd.teachers import BatchContext, CachedTeacher, ModelTeacher

MEMORY_ROUNDS = 3  # after the timed ones: measuring memory takes time


class WaitingLoop(IterBasedTrainLoop):
    """Prepares training and leaves the steps to somebody else.

    Args:
        runner, dataloader, max_iters: See the base class.
        steps (Callable): Called once with the loop, between the hooks of the
            start and those of the end; makes the steps by :meth:`run_iter`.
    """

    def __init__(self, runner, dataloader, max_iters, steps) -> None:
        super().__init__(runner, dataloader, max_iters)
        self.steps = steps

    def run(self) -> None:
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        self.steps(self)
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')

    def jump(self, iteration: int) -> None:
        """Go on as if ``iteration`` iterations had been made."""
        self._iter = iteration
        self.runner.optim_wrapper.initialize_count_status(
            self.runner.model, iteration, self.max_iters)


def train_together(variants, work, rounds):
    """Start all runs, each inside the training of the one before it.

    Each Runner is then where its train loop would begin. An exception ends
    all of them, and each takes its hooks off as it does in a run of its own.

    Args:
        variants (list[Variant]): Get their ``loop``, and what is known of
            the run.
        work (Callable): Called with all runs started.
        rounds (int): Iterations that each will make.
    """
    if not variants:
        work()
        return
    first, *rest = variants

    def steps(loop):
        first.loop = loop
        start(first, rounds)
        train_together(rest, work, rounds)

    runner = Runner.from_cfg(first.cfg)
    loop = runner.train_loop  # of whatever kind
    runner._train_loop = WaitingLoop(
        runner, loop.dataloader, loop.max_iters, steps)
    runner.train()


def start(variant, rounds):
    """Take a started run to where its distillation losses are on."""
    loop = variant.loop
    variant.run = run = next(
        (h.run for h in loop.runner.hooks if isinstance(h, DistillHook)), None)
    terms = run.terms if run else []
    epoch_length = len(loop.dataloader)
    on = [sum(term.config.weight_at(t, t // epoch_length) > 0
              for term in terms) for t in range(loop.max_iters + rounds)]
    loop.jump(first_iteration(on, rounds, loop.max_iters))
    variant.losses = len(terms)
    if run is None:
        return
    student = unwrapped(loop.runner.model)
    for teacher in run.teachers.values():
        for done in range(1, loop.iter + 1):  # as the run would have had it
            if teacher.is_ready:
                break
            teacher.follow(student, done, epoch_length)
        if isinstance(teacher, CachedTeacher):
            variant.forwards.append(remember(teacher))
        elif isinstance(teacher, ModelTeacher):
            variant.taught += teacher.num_parameters
            variant.weights += sum(
                x.numel() * x.element_size()
                for x in (*teacher.model.parameters(),
                          *teacher.model.buffers()))
            variant.forwards.append(remember(teacher))
    modules = [student._modules.get(ENTRY, nn.Module())]
    modules += [trainer.losses for trainer in run.discriminators.values()]
    variant.extra = sum(
        p.numel() for module in modules for p in module.parameters())


def first_iteration(on, rounds, length):
    """Where ``rounds`` iterations find the most losses on; the last such.

    Args:
        on (list[int]): Losses that are on, by iteration.
        rounds (int): Iterations to make.
        length (int): Iterations of the run; they end within it where it is
            long enough.
    """
    done = np.cumsum([0, *on])
    found = (done[rounds:] - done[:-rounds])[:max(length - rounds, 0) + 1]
    return len(found) - 1 - int(np.argmax(found[::-1]))


def remember(teacher):
    """What repeats the last call of ``teacher.teach``; gives its levels."""
    teach, calls = teacher.teach, []

    def remembering(context, sources):
        # without what the student did in that step, which holds its graph
        calls[:] = [(dataclasses.replace(
            context, levels={}, run_student=None), sources)]
        return teach(context, sources)

    def again():
        if not calls:
            return []
        output = teach(*calls.pop())
        output.join()
        return [x for levels in output.levels.values() for x in levels]

    teacher.teach = remembering
    return again


def measure(variants, warmup, iters, cpu_time=False):
    """The rounds: each variant makes a step, in turn and on one batch."""
    leaders = {variant.leader for variant in variants}
    for number in range(warmup + iters + MEMORY_ROUNDS):
        batches = {
            leader: next(leader.loop.dataloader_iterator)
            for leader in leaders
        }
        turn = number % len(variants)
        for variant in variants[turn:] + variants[:turn]:
            loop = variant.loop
            # a preprocessor may change the batch
            batch = copy.deepcopy(batches[variant.leader])
            device = next(loop.runner.model.parameters()).device

            step = partial(loop.run_iter, batch)
            teach = partial(let_teach, variant)
            variant.taught_levels = []
            if variant.live:
                ask_beforehand(variant, batch)
                reading = milliseconds(
                    partial(read_ahead, variant, batch), device, cpu_time)
            if number >= warmup + iters:
                variant.peak.append(peak_bytes(step, device))
                variant.resident.append(resident_bytes(variant))
                variant.taught_peak.append(peak_bytes(teach, device))
                continue
            if number == warmup:
                variant.began = loop.iter
            times = [milliseconds(work, device, cpu_time)
                     for work in (step, teach)]
            if number >= warmup:
                variant.times.append(times[0])
                variant.teaching.append(times[1])
                variant.active.append(active(variant.run))
                if variant.live:
                    variant.reading.append(reading)
    for leader, batch in batches.items():
        data = unwrapped(leader.loop.runner.model).data_preprocessor(
            batch, True)
        leader.shape = tuple(data['inputs'].shape)


@torch.no_grad()
def ask_beforehand(variant, batch):
    """Let the cached teachers have all answers for a batch."""
    student = unwrapped(variant.loop.runner.model)
    inputs, samples = host_of(student).unpack(
        student.data_preprocessor(copy.deepcopy(batch), True))
    for teacher in variant.run.teachers.values():
        if isinstance(teacher, CachedTeacher):
            teacher.teach(BatchContext(student, inputs, samples), None)


def read_ahead(variant, batch):
    """What a worker of the loader does more."""
    for sample in batch['data_samples']:
        for accompany in variant.loop.dataloader.dataset.companions.values():
            accompany(sample)


def let_teach(variant):
    """Repeat the forwards of the teachers of the last step."""
    variant.taught_levels = [
        x for forward in variant.forwards for x in forward()]


def checkpoint_bytes(runner):
    """The size of the file that the run would save now."""
    with TemporaryDirectory() as folder:
        runner.save_checkpoint(folder, 'latest.pth')
        return (Path(folder) / 'latest.pth').stat().st_size


def active(run):
    """How many distillation losses were on in the last step."""
    weights = run.weights.values() if run else ()
    return sum(weight > 0 for weight in weights)


def resident_bytes(variant):
    """Bytes that stay from step to step."""
    runner, run = variant.loop.runner, variant.run
    modules = [unwrapped(runner.model)]
    optimizers = [wrapper.optimizer for wrapper in optim_wrappers(runner)]
    if run is not None:
        modules += [
            teacher.model for teacher in run.teachers.values()
            if isinstance(teacher, ModelTeacher)
            # which needs none where everything is stored
            and not isinstance(teacher, CachedTeacher)]
        for trainer in run.discriminators.values():
            modules.append(trainer.losses)
            optimizers.append(trainer.optimizer)
    tensors = [state for optimizer in optimizers
               for values in optimizer.state.values()
               for state in values.values()]
    for module in modules:
        tensors += module.buffers()
        for parameter in module.parameters():
            tensors += [parameter, parameter.grad]
    kept = {id(x): x for x in tensors if isinstance(x, torch.Tensor)}
    return sum(x.numel() * x.element_size() for x in kept.values())


def differences(student, plain):
    """In what two models are not the same modules with the same weights."""

    def parts(model):
        modules = {
            f'{name or "model"}: {type(module).__name__} with '
            f'{sum(map(len, _torch_hooks(module)))} torch hooks'
            for name, module in model.named_modules()
        }
        return modules | {f'{name}: {tuple(value.shape)}'
                          for name, value in model.state_dict().items()}

    return sorted(parts(student) ^ parts(plain))


def _torch_hooks(module):
    return (module._forward_pre_hooks, module._forward_hooks,
            module._backward_pre_hooks, module._backward_hooks)


def parse_args():
    parser = make_parser(__doc__, rounds=50)
    parser.add_argument(
        'configs',
        nargs='+',
        metavar='config',
        help='path of a config, or its name in an installed package, with or '
        'without distillation')
    parser.add_argument(
        '--mmrazor',
        action='store_true',
        help='make each distillation also as mmrazor does (mmrazor_step.py); '
        'one KDLoss on the logits only')
    parser.add_argument(
        '--teacher-options',
        action='store_true',
        help='make each distillation with a pretrained teacher also under '
        'its options: half precision, layout, compiler, on a GPU a stream of '
        'its own')
    parser.add_argument(
        '--cached',
        action='store_true',
        help='make each distillation with a pretrained teacher also with its '
        'answers read from a cache')
    parser.add_argument(
        '--warmup',
        type=at_least(0),
        default=5,
        help='rounds before the timed ones, by default 5')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='changes to every config, as tools/train.py takes them')
    return parser.parse_args()


def main():
    args = parse_args()
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # the profiler's own
    with TemporaryDirectory() as folder:
        variants = line_up([(Path(name).stem, load_config(
            argparse.Namespace(
                config=name,
                cfg_options=copy.deepcopy(args.cfg_options),
                work_dir=folder,
                launcher='none',
                local_rank=0))) for name in args.configs])
        cached = partial(with_cache, folder=f'{folder}/answers')
        for name, more in (('mmrazor', with_mmrazor),
                           ('teacher_options', with_options),
                           ('cached', cached)):
            if getattr(args, name):
                try:
                    variants = more(variants)
                except ValueError as error:
                    sys.exit(f'--{name.replace("_", "-")}: {error}')
        for number, variant in enumerate(variants):
            variant.cfg = stripped(variant.cfg, folder,
                                   f'{Path(folder).name}_{number}')

        def work():
            measure(variants, args.warmup, args.iters, args.cpu_time)
            for variant in variants:
                variant.saved = checkpoint_bytes(variant.loop.runner)

        train_together(variants, work,
                       args.warmup + args.iters + MEMORY_ROUNDS)
    text = report(variants, 'CPU time' if args.cpu_time else 'wall time',
                  args.device_note)
    write(text, args.out)
    for variant in variants:
        if variant.plain is None or variant.ours:
            continue
        found = differences(*(unwrapped(v.loop.runner.model)
                              for v in (variant, variant.plain)))
        if found:
            sys.exit(f'inference: the student of {variant.name} is not the '
                     f'plain one: {"; ".join(found[:5])}')
    print("\ninference: the plain student's modules, exactly")


if __name__ == '__main__':
    main()
