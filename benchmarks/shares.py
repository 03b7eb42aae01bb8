"""What each loss of a config is of the loss and of the gradient.

Trains every config for some iterations, on its data and schedule, the latter
shortened in proportion; measures every second iteration by the hook's own
``diagnose``; and prints a markdown table of medians, right after the warm-up
of the learning rate and at the end.

``--random-teachers``: these have the weights they are built with, and the BN
statistics of one training batch, so that their maps have the sizes of a
network's. ``--narrow N``: of a PSPNet on Cityscapes the convolutions have 1 /
N of their channels, the teacher is random and the images are those of CamVid.
``--data``: where a config's own images are not at hand, those of another file,
as its pipeline reads them; nothing that was trained before is loaded, and the
teacher is random. ``--crop`` pads or crops them.
``--together``: one run with the losses of all configs, which must be of one
pair; each config's shares are those among its own losses and the task's.

    python benchmarks/shares.py configs/skd/skd_fpn_*camvid* --iters 100
    python benchmarks/shares.py configs/*/*pspnet_r101-r18* --narrow 1 \
        --crop 512 512 --together --iters 1 --window 1
    python benchmarks/shares.py configs/ld/*coco.py --iters 2 --window 1 \
        --data configs/_base_/datasets/bccd.py
    python benchmarks/shares.py configs/toy/fpn_r18-w8*.py --teacher T.py \
        --teacher-checkpoint W.pth --methods SKDHook NFDHook
"""
import argparse
import copy
import itertools
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tools_path  # noqa: F401
import torch
from measuring import at_least, table, write
from methods import find_method, is_distillation
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner import Runner
from torch.nn.modules.batchnorm import _BatchNorm
from train import load_config

from mmselfkd import DistillHook
from mmselfkd.distillation import diagnosis
from mmselfkd.distillation.diagnosis import HIGH, LOW, gradient_shares

PREFIX = 'distill.share.'
HEADER = ('config', 'loss', 'of the loss, first', 'of the loss, last',
          'of the gradient, first', 'of the gradient, last', 'far from',
          'cosine, last', 'cost')
LEGEND = """\
First: the median over iterations {first}; last: over {last}, of {iters}, \
seed {seed}. *of the loss*: the size of the term over the sum of all losses. \
*of the gradient*: `distill.share`, its part in the gradient at what it looks \
at; *cosine* is that with the gradient of the task there. A teacher's own \
losses that are no terms are in both sums. *far from*: the last share is that \
of a term below {low:.1%} or above 20 times all others. *cost*: the CPU time \
of an iteration that measures over one that does not, medians. '-': off at \
that time."""


class Watch(Hook):
    """Keeps what each iteration logs, measures and costs."""

    def __init__(self):
        self.rows, self._began = [], 0.

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self._began = time.process_time()

    def after_train_iter(self, runner, batch_idx, data_batch=None,
                         outputs=None):
        run = next(h.run for h in runner.hooks if isinstance(h, DistillHook)
                   and h.run is not None)
        self.rows.append(dict(
            {key: float(value.detach()) for key, value in outputs.items()},
            **run.measured, one=1.,
            ms=1000 * (time.process_time() - self._began)))


def load(path, method, teacher, checkpoint):
    """A config, with a method hook where one is named."""
    needs = method and find_method(method, None)[1].preset_teacher is None
    return load_config(argparse.Namespace(
        config=path, method=method, teacher=teacher if needs else None,
        teacher_checkpoint=checkpoint if needs else None, method_options=None,
        trust_checkpoint=False, cfg_options=None, work_dir=None,
        launcher='none', local_rank=0))


def shortened(cfg, iters):
    """The same training in ``iters`` iterations, measured, not evaluated.

    Returns:
        int: Iterations of the warm-up.
    """
    epoch = 1  # iterations
    if 'max_epochs' in cfg.train_cfg:
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
            epoch = len(DATASETS.build(cfg.train_dataloader.dataset)) // (
                cfg.train_dataloader.batch_size) or 1
    total = cfg.train_cfg.get('max_iters') or cfg.train_cfg.max_epochs * epoch
    factor, warm_up = iters / total, 0

    def short(time, unit):
        return max(1, round(time * unit * factor)) if time else time

    for scheduler in cfg.param_scheduler:
        unit = epoch if scheduler.get('by_epoch', True) else 1
        scheduler.by_epoch = False
        for name in {'begin', 'end'} & set(scheduler):
            scheduler[name] = short(scheduler[name], unit)
        if scheduler.get('begin') and scheduler.get('end'):
            scheduler.end = max(scheduler.end, scheduler.begin + 1)
        if 'milestones' in scheduler:
            scheduler.milestones = [
                short(time, unit) for time in scheduler.milestones]
        if scheduler.type == 'LinearLR':
            warm_up = max(warm_up, scheduler.end)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters)
    for name in ('val_cfg', 'val_dataloader', 'val_evaluator',
                 'test_cfg', 'test_dataloader', 'test_evaluator',
                 'visualizer'):  # of which mmengine keeps one by its name
        cfg.pop(name, None)
    cfg.default_hooks = dict(
        checkpoint=dict(type='CheckpointHook', interval=-1, save_last=False))
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.log_level = 'WARNING'
    for hook in cfg.custom_hooks:
        if is_distillation(hook, cfg.get('default_scope')):
            hook.diagnose = dict(interval=2)
            teacher = hook.get('teacher') or {}
            for name in {'begin', 'interval'} & set(teacher):
                teacher[name] = max(1, round(teacher[name] * factor))
    return warm_up


def narrowed(model, factor):
    """A PSPNet of ResNet with 1 / ``factor`` of the channels, BN for a CPU."""
    model.backbone.update(
        stem_channels=64 // factor, base_channels=64 // factor)
    for part in (model.backbone, model.decode_head, model.auxiliary_head):
        part.norm_cfg = dict(type='BN', requires_grad=True)
    for head in (model.decode_head, model.auxiliary_head):
        head.update(in_channels=head.in_channels // factor,
                    channels=head.channels // factor)
    model.pretrained = None
    model.backbone.pop('init_cfg', None)


def on_a_cpu(cfg, factor, crop=None):
    """The paper's pair, narrowed, without its weights and its data."""
    narrowed(cfg.model, factor)
    for hook in cfg.custom_hooks:
        if 'config' in hook.get('teacher', {}):
            teacher = _config_of(hook.teacher)
            narrowed(teacher.model, factor)
            hook.teacher = dict(
                config=dict(model=teacher.model.to_dict(),
                            default_scope='mmseg'), checkpoint='random')
    data = Config.fromfile(Path(__file__).parent.parent / 'configs' /
                           '_base_/datasets/camvid.py').train_dataloader
    data.dataset.pipeline = cfg.train_dataloader.dataset.pipeline
    use(cfg, data, crop)


def on_other_data(cfg, path, crop=None):
    """The config's networks at full width, on the images of another file."""
    untrained(cfg.model)
    use(cfg, Config.fromfile(path).train_dataloader, crop)


def use(cfg, data, crop):
    """Train on this data with the batch size of the config."""
    data.batch_size = cfg.train_dataloader.batch_size
    cfg.train_dataloader = data
    if crop is not None:
        cfg.model.data_preprocessor.size = tuple(crop)
        for step in data.dataset.pipeline:
            if step.type == 'RandomCrop':
                step.crop_size = tuple(crop)


def untrained(model):
    """Without weights that were trained before."""
    model.pop('pretrained', None)
    model.backbone.pop('init_cfg', None)


def randomise(cfg, folder):
    """Give the teachers their first weights and the statistics of a batch.

    Args:
        cfg (Config): Of the run.
        folder (Path): For their checkpoint.
    """
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        batch = next(iter(Runner.build_dataloader(
            dict(cfg.train_dataloader, num_workers=0,
                 persistent_workers=False), seed=0)))
    for hook in cfg.custom_hooks:
        if 'config' not in hook.get('teacher', {}):
            continue
        config = _config_of(hook.teacher)
        untrained(config.model)
        model = revert_sync_batchnorm(MODELS.build(dict(
            config.model, _scope_=config.get('default_scope'))))
        model.init_weights()
        model.train()
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.momentum = None  # the mean of all batches: this one
        with torch.no_grad():
            model(**model.data_preprocessor(copy.deepcopy(batch), True),
                  mode='tensor')
        path = Path(folder) / 'teacher.pth'
        torch.save(dict(state_dict=model.state_dict()), path)
        hook.teacher = dict(
            config=dict(model=config.model.to_dict(),
                        default_scope=config.get('default_scope')),
            checkpoint=str(path))


def _config_of(teacher):
    """The config of a teacher's model."""
    if isinstance(teacher.config, str):
        return Config.fromfile(Config._get_cfg_path(teacher.config, '')[0]
                               if '::' in teacher.config else teacher.config)
    return Config(copy.deepcopy(dict(teacher.config)))


def joined(configs):
    """The first config with the losses of all, at their whole weight.

    Args:
        configs (dict[str, Config]): By name, each with one distillation hook
            and the same teacher.

    Returns:
        tuple[Config, dict]: It, and the names of each config's losses.
    """
    losses, names = {}, {}
    for title, cfg in configs.items():
        hook, = (h for h in cfg.custom_hooks
                 if is_distillation(h, cfg.get('default_scope')))
        own = copy.deepcopy(find_method(
            hook.type.rpartition('.')[2], None)[1].preset)
        for name, changes in hook.get('losses', {}).items():
            if changes is None:
                del own[name]
            else:
                own[name] = dict(own.get(name, {}), **changes)
        names[title] = []
        for name, loss in own.items():
            loss.pop('schedule', None)
            names[title].append(f'{title.replace("-", "_")}__{name}')
            losses[names[title][-1]] = loss
    first = next(iter(configs.values()))
    teacher = next(h.teacher for h in first.custom_hooks if 'teacher' in h)
    first.custom_hooks = [dict(
        type='mmselfkd.DistillHook', teacher=teacher, losses=losses)]
    return first, names


def among(groups):
    """``gradient_shares`` among the losses of each group by themselves."""

    def shares(task, losses, edges, scale=1.):
        found = {}, {}
        for names in groups:
            of = [name for name in names if name in losses]
            for whole, part in zip(found, gradient_shares(
                    task, {name: losses[name] for name in of},
                    {name: edges[name] for name in of}, scale)):
                whole.update(part)
        return found

    return shares


def measured(cfg, iters):
    """What :class:`Watch` saw of a training, and the names of the terms."""
    watch = Watch()
    with TemporaryDirectory() as folder:
        cfg.work_dir, cfg.experiment_name = folder, Path(folder).name
        runner = Runner.from_cfg(cfg)
        runner.register_hook(watch, 'LOWEST')
        names = []
        for hook in runner.hooks:
            if isinstance(hook, DistillHook):
                names += [loss.name for loss in hook.plan.used]
        runner.train()
    return watch.rows, names


def median(values):
    """Of those that are there; None: there is none."""
    values = [value for value in values if value is not None]
    return float(np.median(values)) if values else None


def percent(value):
    return '-' if value is None else f'{100 * value:.3g} %'


def apart(rows, names):
    """What a config by itself would log, of a run of several."""
    found = []
    for row in rows:
        foreign = {key for key in row
                   if '__' in key and key.rpartition('.')[2] not in names}
        others = sum(value for key, value in row.items() if key in foreign
                     and key == f'distill.{key.rpartition(".")[2]}')
        found.append(dict(
            {key: value for key, value in row.items() if key not in foreign},
            loss=row['loss'] - others, ms=None if foreign else row['ms']))
    return found


def lines(title, rows, names, windows):
    """The table's rows of one config.

    Args:
        title (str): Of the config.
        rows (list[dict]): What each iteration gave.
        names (list[str]): The terms.
        windows (list[slice]): The first and the last iterations.
    """
    is_measured = [any(key.startswith(PREFIX) for key in row) for row in rows]
    times = [median([row['ms'] for row, other in zip(rows[2:], is_measured[2:])
                     if other == which]) for which in (True, False)]
    cost = times[0] / times[1] if all(times) else None
    for name in names:
        of_loss, of_gradient = ([
            median([abs(row[key]) / row[whole] for row in rows[window]
                    if PREFIX + name in row])
            for window in windows] for key, whole in (
                (f'distill.{name}', 'loss'), (PREFIX + name, 'one')))
        cosine = median([row.get(f'distill.cosine.{name}')
                         for row in rows[windows[1]]])
        far = [what for what, share in (
            ('loss', of_loss[1]), ('gradient', of_gradient[1]))
            if share is not None and not LOW <= share <= HIGH]
        shown = f'`{name.rpartition("__")[2]}`'
        yield (title, shown, *map(percent, of_loss + of_gradient),
               ' and '.join(far), '-' if cosine is None else f'{cosine:.2f}',
               '-' if cost is None else f'{cost:.2f}')
        title, cost = '', None  # once a config


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('configs', nargs='+')
    parser.add_argument('--methods', nargs='+', default=[None],
                        help='hooks to add to the configs, each by itself')
    parser.add_argument('--teacher', help='of those that have none')
    parser.add_argument('--teacher-checkpoint')
    parser.add_argument('--iters', type=at_least(1), default=100)
    parser.add_argument('--window', type=at_least(1), default=10,
                        help='iterations of a median, every second measured')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--random-teachers', action='store_true')
    parser.add_argument('--narrow', type=at_least(1), metavar='N')
    parser.add_argument('--crop', type=int, nargs=2, metavar=('H', 'W'),
                        help='with --narrow or --data')
    parser.add_argument('--data', metavar='CONFIG')
    parser.add_argument('--together', action='store_true')
    parser.add_argument('--out', type=Path)
    args = parser.parse_args()
    configs = {}
    for path, method in itertools.product(args.configs, args.methods):
        cfg = load(path, method, args.teacher, args.teacher_checkpoint)
        if args.narrow:
            on_a_cpu(cfg, args.narrow, args.crop)
        elif args.data:
            on_other_data(cfg, args.data, args.crop)
        configs[Path(path).stem if method is None else method] = cfg
    runs = [(cfg, {title: None}) for title, cfg in configs.items()]
    if args.together:
        runs = [joined(configs)]
        diagnosis.gradient_shares = among(runs[0][1].values())
    found = []
    for cfg, titles in runs:
        warm_up = shortened(cfg, args.iters)
        cfg.randomness = dict(seed=args.seed)
        warm_up = min(warm_up, args.iters - args.window)
        windows = [slice(warm_up, warm_up + args.window),
                   slice(args.iters - args.window, args.iters)]
        torch.manual_seed(args.seed)
        with TemporaryDirectory() as folder:
            if args.random_teachers or args.narrow or args.data:
                randomise(cfg, folder)
            rows, names = measured(cfg, args.iters)
        for title, own in titles.items():
            found += lines(title, apart(rows, own or names), own or names,
                           windows)
        write(table(HEADER, found) + '\n\n' + LEGEND.format(
            first=f'{warm_up} to {warm_up + args.window - 1}',
            last=f'{args.iters - args.window} to {args.iters - 1}',
            iters=args.iters, seed=args.seed, low=LOW), args.out)


if __name__ == '__main__':
    main()
