"""What a training step with distillation costs, against the plain step.

Builds a Runner for every config, and for the configs with distillation one
for the same student without it. All of them live in one process and make one
training iteration each, round by round, on the same batch and in rotating
order, so that whatever else the machine does meets all alike. Prints a
markdown table. A config without distillation among others is compared as
well: how far its ratio is from 1 tells the noise. With --losses it measures
the losses alone, against their plain equations.
"""
import argparse
import copy
import dataclasses
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Callable, List, Optional

import numpy as np
import torch
from measuring import machine, milliseconds, peak_bytes, table, told
from mmengine.config import Config, DictAction
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner
from peer import as_peer
from torch import nn
from train import load_config

from mmselfkd import DistillHook
from mmselfkd.hooks.preparation import optim_wrappers
from mmselfkd.hooks.state import ENTRY, unwrapped
from mmselfkd.teachers.model_teacher import ModelTeacher

MEMORY_ROUNDS = 3  # after the timed ones: measuring memory takes time
# what makes a plain training step what it is
STUDENT = ('model', 'data_preprocessor', 'train_dataloader', 'optim_wrapper',
           'custom_hooks', 'activation_checkpointing', 'compile',
           'efficient_conv_bn_eval', 'env_cfg')
HEADER = ('step', 'from iteration', 'losses on', 'ms', 'ratio to plain',
          'floor ms', 'ratio to floor', 'extra trained parameters',
          'teacher parameters', 'memory MiB', 'checkpoint MiB')
LEGEND = """\
Times and ratios are medians over the rounds with the quartiles in brackets; \
a ratio is taken within each round. The floor is the plain step and, in the \
same round, one forward of the teachers that are models of their own, to the \
deepest tap. Loading data is not in the times. *losses on*: distillation \
losses with a weight above 0 throughout, of all; *from iteration*: of the \
configured run, where the rounds begin. Memory: the weights, gradients and \
optimizer states that stay, teachers and discriminators included, plus the \
peak of what one step allocates ({}), of {} steps after the timed ones the \
median; for the others what is more than in the plain run. Checkpoint: the \
file of weights and optimizer states that the run saves."""


@dataclass(eq=False)
class Variant:
    """The training step of one config, and what was measured of it.

    Attributes:
        name (str): Of its row.
        cfg (Config): Of its run.
        leader (Variant): Whose data loader gives the batches.
        plain (Variant | None): What it is compared with.
        ours (Variant | None): The same distillation by this project, where
            this is how the peer makes it.
        loop (WaitingLoop | None): Makes the steps.
        hook (DistillHook | None): The distillation hook.
        forwards (list[Callable]): Repeat what teachers did in the last step.
        losses (int): Distillation losses there are.
        extra (int): Parameters that are trained along with the student.
        taught (int): Parameters of teachers, not trained.
        times, teaching (list[float]): Milliseconds of the step and of the
            teachers' forwards, by round.
        began (int): Iteration of the first of them.
        active (list[int]): Distillation losses that were on, by round.
        memory (list[int]): Bytes, by step.
        saved (int): Bytes of a checkpoint.
        shape (tuple): Of the student's input, where the variant leads.
    """
    name: str
    cfg: Config
    leader: Optional['Variant'] = None
    plain: Optional['Variant'] = None
    ours: Optional['Variant'] = None
    loop: Any = None
    hook: Any = None
    forwards: List[Callable] = field(default_factory=list)
    losses: int = 0
    extra: int = 0
    taught: int = 0
    times: List[float] = field(default_factory=list)
    teaching: List[float] = field(default_factory=list)
    began: int = 0
    active: List[int] = field(default_factory=list)
    memory: List[int] = field(default_factory=list)
    saved: int = 0
    shape: tuple = ()


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


# -- configs ----------------------------------------------------------------


def is_distillation(entry, scope):
    """Whether an entry of ``custom_hooks`` is a hook of this project."""
    if not isinstance(entry, dict):
        return isinstance(entry, DistillHook)
    kind = entry['type']
    if isinstance(kind, str):
        scope = entry.get('_scope_', scope)
        with HOOKS.switch_scope_and_registry(scope) as registry:
            kind = registry.get(kind)
    return isinstance(kind, type) and issubclass(kind, DistillHook)


def without_distillation(cfg):
    """The config of the plain student."""
    plain = copy.deepcopy(cfg)
    plain.custom_hooks = [
        entry for entry in cfg.get('custom_hooks') or []
        if not is_distillation(entry, cfg.get('default_scope'))
    ]
    return plain


def same_student(one, other):
    """Whether two configs without distillation make the same step."""
    return all(one.get(key) == other.get(key) for key in STUDENT)


def line_up(configs):
    """A variant for each config and for each plain student they need.

    Args:
        configs (list[tuple]): Name and config of each.
    """
    groups = []
    for name, cfg in configs:
        plain = without_distillation(cfg)
        is_plain = len(plain.custom_hooks) == len(
            cfg.get('custom_hooks') or [])
        for group in groups:
            if same_student(group[0], plain):
                break
        else:
            group = [plain, True, []]
            groups.append(group)
        group[1] &= is_plain
        group[2].append(Variant(name, cfg))
    variants, references = [], []
    for plain, all_plain, members in groups:
        if not all_plain:
            reference = Variant(f'plain of {members[0].name}', plain)
            references.append(reference)
            for member in members:
                member.plain = reference
            members.insert(0, reference)
        for member in members:
            member.leader = members[0]
        variants += members
    if len(references) == 1:
        references[0].name = 'plain'
    return variants


def with_peers(variants):
    """The variants, and each distillation as the peer makes it behind it.

    Raises:
        ValueError: Of a distillation that the peer is not written for.
    """
    result = []
    for variant in variants:
        result.append(variant)
        entry = variant.plain and next(
            (entry for entry in variant.cfg.custom_hooks
             if is_distillation(entry, variant.cfg.get('default_scope'))),
            None)
        if entry:
            result.append(Variant(
                f'{variant.name}, the peer', as_peer(
                    entry, without_distillation(variant.cfg)),
                variant.leader, variant.plain, variant))
    return result


def stripped(cfg, work_dir, name):
    """The config without what has no part in a training step."""
    cfg = copy.deepcopy(cfg)
    for stage in ('val', 'test'):
        for part in ('dataloader', 'evaluator', 'cfg'):
            cfg[f'{stage}_{part}'] = None
    hooks = dict(cfg.get('default_hooks') or {}, logger=None, checkpoint=None)
    hooks.pop('visualization', None)
    # a worker process would load the next batch while a step is timed
    loader = dict(cfg.train_dataloader, num_workers=0)
    for key in ('persistent_workers', 'prefetch_factor', 'timeout',
                'multiprocessing_context'):
        loader.pop(key, None)
    # update() would merge the dicts
    cfg.default_hooks, cfg.train_dataloader = hooks, loader
    cfg.update(
        work_dir=str(work_dir),
        experiment_name=name,
        launcher='none',
        resume=False,
        visualizer=None,
        log_level='WARNING')
    return cfg


# -- runs -------------------------------------------------------------------


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
    variant.hook = hook = next(
        (h for h in loop.runner.hooks if isinstance(h, DistillHook)), None)
    terms = [term for term in hook.terms if term.loss_weight > 0
             ] if hook else []
    epoch_length = len(loop.dataloader)
    on = [sum(term.weight_at(t, t // epoch_length) > 0 for term in terms)
          for t in range(loop.max_iters + rounds)]
    loop.jump(first_iteration(on, rounds, loop.max_iters))
    variant.losses = len(terms)
    if hook is None:
        return
    student = unwrapped(loop.runner.model)
    for teacher in hook.teachers.values():
        for done in range(1, loop.iter + 1):  # as the run would have had it
            if teacher.is_ready:
                break
            teacher.follow(student, done, epoch_length)
        if isinstance(teacher, ModelTeacher):
            variant.taught += teacher.num_parameters
            variant.forwards.append(remember(teacher))
    modules = [student._modules.get(ENTRY, nn.Module())]
    modules += [adversary.losses for adversary in hook.adversaries.values()]
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
    """What repeats the last call of ``teacher.teach``."""
    teach, calls = teacher.teach, []

    def remembering(step, sources):
        # without what the student did in that step, which holds its graph
        calls[:] = [(dataclasses.replace(step, seen={}, again=None), sources)]
        return teach(step, sources)

    teacher.teach = remembering
    return lambda: teach(*calls.pop()) if calls else None


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

            def step():
                loop.run_iter(batch)

            def teach():
                for forward in variant.forwards:
                    forward()

            if number >= warmup + iters:
                variant.memory.append(
                    peak_bytes(step, device) + resident_bytes(variant))
                teach()
                continue
            if number == warmup:
                variant.began = loop.iter
            times = [milliseconds(work, device, cpu_time)
                     for work in (step, teach)]
            if number >= warmup:
                variant.times.append(times[0])
                variant.teaching.append(times[1])
                variant.active.append(active(variant.hook))
    for leader, batch in batches.items():
        data = unwrapped(leader.loop.runner.model).data_preprocessor(
            batch, True)
        leader.shape = tuple(data['inputs'].shape)


def checkpoint_bytes(runner):
    """The size of the file that the run would save now."""
    with TemporaryDirectory() as folder:
        runner.save_checkpoint(folder, 'latest.pth')
        return (Path(folder) / 'latest.pth').stat().st_size


def active(hook):
    """How many distillation losses were on in the last step."""
    weights = hook._weights.values() if hook else ()
    return sum(weight > 0 for weight in weights)


def resident_bytes(variant):
    """Bytes that stay from step to step."""
    runner, hook = variant.loop.runner, variant.hook
    modules = [unwrapped(runner.model)]
    optimizers = [wrapper.optimizer for wrapper in optim_wrappers(runner)]
    if hook is not None:
        modules += [teacher.model for teacher in hook.teachers.values()
                    if isinstance(teacher, ModelTeacher)]
        for adversary in hook.adversaries.values():
            modules.append(adversary.losses)
            optimizers.append(adversary.optimizer)
    tensors = [state for optimizer in optimizers
               for values in optimizer.state.values()
               for state in values.values()]
    for module in modules:
        tensors += module.buffers()
        for parameter in module.parameters():
            tensors += [parameter, parameter.grad]
    kept = {id(x): x for x in tensors if isinstance(x, torch.Tensor)}
    return sum(x.numel() * x.element_size() for x in kept.values())


# -- report -----------------------------------------------------------------


def row(variant):
    """The cells of a variant."""
    times, taught = np.array(variant.times), np.array(variant.teaching)
    plain, memory = variant.plain, np.array(variant.memory) / 2**20
    cells = dict.fromkeys(HEADER, '-')
    cells['step'] = variant.name
    cells['from iteration'] = str(variant.began)
    cells['ms'] = told(times, 1)
    cells['checkpoint MiB'] = f'{variant.saved / 2**20:.1f}'
    if variant.losses:
        cells['losses on'] = f'{min(variant.active)} of {variant.losses}'
    if plain is None:
        cells['memory MiB'] = f'{np.median(memory):.1f}'
        return list(cells.values())
    more = memory - np.array(plain.memory) / 2**20
    cells['memory MiB'] = f'{np.median(more):+.1f}'
    cells['ratio to plain'] = told(times / plain.times, 2)
    cells['extra trained parameters'] = f'{variant.extra:,}'
    cells['teacher parameters'] = f'{variant.taught:,}'
    if variant.forwards:
        floor = np.array(plain.times) + taught
        cells['floor ms'] = told(floor, 1)
        cells['ratio to floor'] = told(times / floor, 2)
    return list(cells.values())


def report(variants, *notes):
    """Where it was measured, the table, and what its columns are."""
    runner = variants[0].loop.runner
    device = next(runner.model.parameters()).device
    shapes = sorted({'x'.join(map(str, v.leader.shape)) for v in variants})
    seeds = sorted({str(v.loop.runner.seed) for v in variants})
    method = ("the peak of CUDA's caching allocator" if device.type == 'cuda'
              else "torch's profiler: every tensor on the CPU")
    return '\n'.join([
        machine(device, f'batch {" and ".join(shapes)}',
                f'{len(variants[0].times)} rounds',
                f'seed {" and ".join(seeds)}', *notes), '',
        table(HEADER, map(row, variants)), *map(compared, filter(
            lambda variant: variant.ours, variants)),
        LEGEND.format(method, MEMORY_ROUNDS)])


def compared(peer):
    """What the same distillation costs by this project and by the peer."""
    ours = peer.ours
    return (f'{ours.name} takes '
            f'{told(np.array(ours.times) / peer.times, 2)} of the time of the '
            f'peer and its checkpoint {ours.saved / peer.saved:.2f} of the '
            'space.\n')


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'configs',
        nargs='*',
        metavar='config',
        help='path of a config, or its name in an installed package, with or '
        'without distillation')
    parser.add_argument(
        '--losses',
        nargs='*',
        metavar='LOSS',
        help='instead of steps, measure the losses whose name begins so; '
        'without a name all of them')
    parser.add_argument(
        '--peer',
        action='store_true',
        help='make each distillation also as mmrazor does (tools/peer.py); '
        'one KDLoss on the logits only')
    parser.add_argument(
        '--iters',
        type=int,
        help='timed rounds, by default 50, of losses 7')
    parser.add_argument(
        '--warmup', type=int, default=5, help='rounds before them, 5 by '
        'default; of losses always 1')
    parser.add_argument(
        '--cpu-time',
        action='store_true',
        help='count the CPU time of this process, not the time on the clock: '
        'for one thread on a CPU with other work')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='changes to every config, as tools/train.py takes them')
    parser.add_argument(
        '--out', type=Path, help='a file for the table, too; with --losses '
        'there will be a plot beside it')
    parser.add_argument(
        '--device-note', default='', help='what else to say of the machine')
    args = parser.parse_args()
    if bool(args.configs) == (args.losses is not None):
        parser.error('either configs or --losses are needed')
    if args.iters is None:
        args.iters = 50 if args.configs else 7
    for name, least in (('iters', 1), ('warmup', 0)):
        value = getattr(args, name)
        if value < least:
            parser.error(f'--{name} {value}: must be {least} or more')
    return args


def main():
    args = parse_args()
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # the profiler's own
    if args.losses is not None:
        import benchmark_losses  # needs matplotlib
        benchmark_losses.run(args.losses, args.iters, args.cpu_time,
                             args.device_note, args.out)
        return
    with TemporaryDirectory() as folder:
        variants = line_up([(Path(name).stem, load_config(
            argparse.Namespace(
                config=name,
                cfg_options=copy.deepcopy(args.cfg_options),
                work_dir=folder,
                launcher='none',
                local_rank=0))) for name in args.configs])
        if args.peer:
            try:
                variants = with_peers(variants)
            except ValueError as error:
                sys.exit(f'--peer: {error}')
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
    print(f'\n{text}')
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(f'{text}\n')
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
