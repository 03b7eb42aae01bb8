"""Trains the plain student and distilled ones alike, and compares them.

Each method and the plain student are trained with every seed by tools/train.py
and tested by tools/test.py. Stopped at any point, the same command goes on
where it was. At the end there is a table, and `tools/report.py WORK_DIR` makes
a page of it.

A method is the name of a method hook, a file that defines one, or either with
changes to its arguments: SKDHook:losses.loss_ho=None
"""
import argparse
import hashlib
import importlib
import inspect
import os
import re
import signal
import sys
from functools import partial
from pathlib import Path

import torch
from methods import find_method, is_distillation, make_entry
from mmengine.config import Config, DictAction
from train import check_checkpoint, find_checkpoint, find_config

from mmselfkd import ConfigError, DistillHook
from mmselfkd.checkpoint_files import is_whole, newest_whole
from mmselfkd.comparison.display import Display
from mmselfkd.comparison.job_queue import Job, JobQueue, Step
from mmselfkd.comparison.recording import EVALUATION, FINAL
from mmselfkd.comparison.results import PLAIN, TEACHER, Plan, read_results
from mmselfkd.comparison.tables import as_markdown, write_tables

TOOLS = Path(__file__).resolve().parent
# what runs that are compared must share
SCHEDULE = ('train_cfg', 'optim_wrapper', 'param_scheduler', 'auto_scale_lr')
DATA = ('train_dataloader', 'val_dataloader', 'val_evaluator')


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'student', help="the plain student's config, as of tools/train.py")
    parser.add_argument('--teacher', help='config of the teacher')
    parser.add_argument(
        '--teacher-checkpoint',
        metavar='FILE',
        help='its weights; without it the teacher is trained first, as its '
        'config says')
    parser.add_argument(
        '--methods', nargs='+', required=True, metavar='METHOD')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument(
        '--jobs',
        type=int,
        help='runs at a time; by default as many as there are GPUs, or one')
    parser.add_argument(
        '--launcher',
        choices=['none', 'slurm'],
        default='none',
        help='slurm: each run is a job, by tools/slurm_train.sh and with the '
        'environment variables of it')
    parser.add_argument('--partition', help='of slurm')
    parser.add_argument(
        '--work-dir',
        type=Path,
        help='by default work_dirs/compare_STUDENT')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help="changes to the student's config, as tools/train.py takes them")
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='as tools/train.py')
    args = parser.parse_args()
    if args.launcher == 'slurm' and not args.partition:
        parser.error('--launcher slurm needs --partition')
    for name in ('methods', 'seeds'):
        values = getattr(args, name)
        twice = next((v for v in values if values.count(v) > 1), None)
        if twice is not None:
            parser.error(f'--{name}: {twice} is named twice')
    if args.jobs is not None and args.jobs < 1:
        parser.error(f'--jobs {args.jobs}: at least 1')
    if args.teacher_checkpoint and not args.teacher:
        parser.error('--teacher-checkpoint needs --teacher')
    return args


class Method:
    """One method of the command line.

    Args:
        text (str): Such as ``NFDHook`` or ``my_hook.py:inherit=neck``.
        scope (str | None): The default scope of the student's config.
    """

    def __init__(self, text, scope):
        self.text, self.scope = text, scope
        name, options = split(text)
        if name.endswith('.py'):
            name = hook_of_file(name)
        parser = argparse.ArgumentParser()
        parser.add_argument('--options', nargs='*', action=DictAction)
        self.name = name
        self.options = parser.parse_args(['--options', *options]).options
        _, self.hook = find_method(name, scope)
        short = name.rpartition('.')[2].removesuffix('Hook').lower()
        changes = [option.rpartition('.')[2] for option in options]
        self.slug = re.sub(r'[^\w.=-]+', '_', '-'.join([short, *changes]))

    @property
    def needs_teacher(self):
        own = {'teacher.type', 'teacher.config'} & set(self.options)
        return self.hook.preset_teacher is None and not own

    def entry(self, teacher, checkpoint, trust):
        """Its entry of ``custom_hooks``."""
        if not self.needs_teacher:
            teacher = checkpoint = None
        return make_entry(self.name, self.scope, teacher, checkpoint,
                          self.options, trust)


def split(text):
    """The name of a method, and its options.

    A colon that begins no option belongs to the value before it.
    """
    name, *parts = text.split(':')
    options = []
    for part in parts:
        if re.match(r'[\w.]+=', part):
            options.append(part)
        elif options:
            options[-1] += f':{part}'
        else:
            sys.exit(f'--methods {text!r}: {part!r} is no key.path=value')
    return name, options


def hook_of_file(path):
    """``module.Class`` of the one method hook that a file defines."""
    file = Path(path).resolve()
    if not file.is_file():
        sys.exit(f'--methods {path!r}: there is no such file')
    # the runs find it there too
    sys.path.insert(0, str(file.parent))
    os.environ['PYTHONPATH'] = os.pathsep.join(
        filter(None, [str(file.parent), os.environ.get('PYTHONPATH')]))
    module = importlib.import_module(file.stem)
    found = [
        name for name, hook in vars(module).items()
        if inspect.isclass(hook) and issubclass(hook, DistillHook)
        and hook.__module__ == module.__name__]
    if len(found) != 1:
        sys.exit(f'--methods {path!r}: one class is needed that derives from '
                 f'DistillHook; there are {found or "none"}')
    return f'{file.stem}.{found[0]}'


class Comparison:
    """The runs of a command line.

    Args:
        args (Namespace): From :func:`parse_args`.
    """

    def __init__(self, args):
        self.args = args
        self.cfg = Config.fromfile(find_config(args.student))
        self.cfg.merge_from_dict(args.cfg_options or {})
        self.folder = args.work_dir or Path(
            'work_dirs', f'compare_{Path(args.student).stem}')
        scope = self.cfg.get('default_scope')
        for hook in self.cfg.get('custom_hooks') or []:
            if is_distillation(hook, scope):
                sys.exit(f'{args.student} distils already, by '
                         f'{hook["type"]}: the config of the plain student '
                         'is needed')
        for key in ('val_dataloader', 'val_evaluator'):
            if self.cfg.get(key) is None:
                sys.exit(f'{args.student}: {key} is None; runs are compared '
                         'by what they reach on it')
        self.methods = [Method(text, scope) for text in args.methods]
        slugs = [method.slug for method in self.methods]
        for method, slug in zip(self.methods, slugs):
            if slugs.count(slug) > 1:  # of other options with equal ends
                method.slug += '-' + digest_of(method.text)[:6]
        if args.teacher is None:
            for method in self.methods:
                if method.needs_teacher:
                    sys.exit(f'--methods {method.text}: it needs --teacher')
        elif args.teacher_checkpoint not in (None, 'random'):
            check_checkpoint(find_checkpoint(args.teacher_checkpoint),
                             args.trust_checkpoint)

    def jobs(self):
        """All jobs, those of one seed together.

        Raises:
            ConfigError: A folder has runs of other settings.
        """
        jobs = [] if self.args.teacher is None else self.teacher_jobs()
        for seed in self.args.seeds:
            jobs.append(self.job('plain', PLAIN, seed, 0))
            for i, method in enumerate(self.methods, 1):
                entry = method.entry(
                    self.args.teacher, self.teacher_checkpoint,
                    self.args.trust_checkpoint)
                jobs.append(self.job(
                    method.slug, method.text, seed, i, entry,
                    self.teacher_settings if method.needs_teacher else None))
        return jobs

    @property
    def teacher_checkpoint(self):
        return self.args.teacher_checkpoint or str(
            self.folder / TEACHER / FINAL)

    def teacher_jobs(self):
        """Test the teacher on the student's data; train it if need be."""
        own = Config.fromfile(find_config(self.args.teacher))
        train = self.args.teacher_checkpoint is None
        self.teacher_settings = dict(
            settings_of(own), data=None,
            checkpoint='trained' if train else
            fingerprint(self.args.teacher_checkpoint))
        if self.args.teacher_checkpoint == 'random':
            return []  # of its numbers nobody learns anything
        settings = dict(self.teacher_settings, data=self.settings['data'])
        seed = (own.get('randomness') or {}).get('seed') or 0
        folder = self.folder / TEACHER
        if train:
            own.randomness = dict(own.get('randomness') or {}, seed=seed)
            add_hook(own)
        for key in ('val_dataloader', 'val_evaluator'):
            own[key] = self.cfg[key]
        config = self.write(TEACHER, own)
        Plan(TEACHER, seed, 0, settings,
             dict(checkpoint=self.args.teacher_checkpoint), str(config)
             ).write(folder)
        return [self.steps(TEACHER, folder, config, train,
                           self.teacher_checkpoint)]

    @property
    def settings(self):
        return settings_of(self.cfg)

    def job(self, slug, method, seed, position, entry=None, teacher=None):
        """Train with one seed, and test."""
        name = f'{slug}-seed{seed}'
        folder = self.folder / name
        cfg = self.cfg.copy()
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []),
                            *([entry] if entry else [])]
        add_hook(cfg)
        config = self.write(name, cfg)
        Plan(method, seed, position, self.settings,
             dict(hook=entry, teacher=teacher), str(config)).write(folder)
        job = self.steps(name, folder, config, True, folder / FINAL)
        if teacher is not None and self.args.teacher_checkpoint is None:
            job.ready = (self.folder / TEACHER / FINAL).exists
        return job

    def write(self, name, cfg):
        """Write a config of a run, which is tested with the val set."""
        cfg.test_dataloader, cfg.test_evaluator = (
            cfg.val_dataloader, cfg.val_evaluator)
        cfg.test_cfg = cfg.get('test_cfg') or dict(type='TestLoop')
        path = self.folder / 'configs' / f'{name}.py'
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix('.part.py')
            cfg.dump(str(part))
            part.replace(path)
        return path

    def steps(self, name, folder, config, train, checkpoint):
        trust = ['--trust-checkpoint'] * self.args.trust_checkpoint
        test = Step(
            lambda: self.command('test.py', 1, name, config, checkpoint,
                                 '--work-dir', folder, '--metrics',
                                 folder / EVALUATION, *trust),
            (folder / EVALUATION).exists)
        if not train:
            return Job(name, folder, [test])
        return Job(name, folder, [Step(
            lambda: self.command(
                'train.py', os.environ.get('GPUS', 1), name, config,
                '--work-dir', folder, *resume(folder), *trust),
            (folder / FINAL).exists), test])

    def command(self, tool, gpus, name, config, *flags):
        if self.args.launcher == 'none':
            return [sys.executable, TOOLS / tool, config, *flags]
        return ['env', f'TOOL={tool}', f'GPUS={gpus}', 'bash',
                TOOLS / 'slurm_train.sh', self.args.partition, name, config,
                *flags]

    def slots(self):
        """The environment of each run that may run at a time."""
        gpus = (os.environ.get('CUDA_VISIBLE_DEVICES')
                or ','.join(map(str, range(torch.cuda.device_count()))))
        gpus = gpus.split(',') if torch.cuda.is_available() else []
        if self.args.launcher == 'slurm':
            jobs = self.args.jobs or len(self.args.seeds) * (
                1 + len(self.methods))
            return [dict(os.environ)] * jobs
        if not gpus:
            # more threads of one run gain less than more runs
            return [{'OMP_NUM_THREADS': '1', **os.environ}] * (
                self.args.jobs or 1)
        return [dict(os.environ, CUDA_VISIBLE_DEVICES=gpus[i % len(gpus)])
                for i in range(self.args.jobs or len(gpus))]


def settings_of(cfg):
    """What runs that are compared must share."""
    cfg = cfg.to_dict()
    return dict(
        student=cfg.get('model'),
        schedule={key: cfg.get(key) for key in SCHEDULE},
        data={key: cfg.get(key) for key in DATA},
        hooks=cfg.get('custom_hooks'))


def add_hook(cfg):
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []),
                        dict(type='mmselfkd.ComparisonHook')]


def fingerprint(checkpoint):
    """The same for the same weights; of a URL, itself."""
    path = Path(checkpoint)
    return digest_of(path.read_bytes()) if path.is_file() else checkpoint


def digest_of(content):
    content = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(content).hexdigest()


def resume(folder):
    """The flags by which training goes on from the newest whole checkpoint."""
    last = folder / 'last_checkpoint'
    path = Path(last.read_text().strip()) if last.exists() else None
    if path is not None and path.is_file() and is_whole(str(path)):
        return ['--resume']
    path = newest_whole(folder)
    return [] if path is None else ['--resume', path]


def main():
    args = parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('terminated'))
    comparison = Comparison(args)
    try:
        jobs = comparison.jobs()
    except ConfigError as error:
        sys.exit(str(error))
    slots = comparison.slots()
    with Display(jobs, len(slots)) as display:
        queue = JobQueue(jobs, slots, wait=True, say=display.say,
                         look=partial(display.look))
        failed = queue.run()
    results = read_results([comparison.folder])
    paths = write_tables(results, comparison.folder)
    print('\n' + as_markdown(results))
    print('Written: ' + ', '.join(map(str, paths)))
    if failed:
        sys.exit('failed: ' + ', '.join(failed))


if __name__ == '__main__':
    main()
