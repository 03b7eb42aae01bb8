"""The runs that compare.py and tune.py start, alike but for the method."""
import argparse
import hashlib
import os
import signal
import sys
from pathlib import Path

import torch
from methods import Method, is_distillation
from mmengine.config import Config, DictAction
from train import check_checkpoint, find_checkpoint, find_config

from mmselfkd import ConfigError
from mmselfkd.checkpoint_files import is_whole, newest_whole
from mmselfkd.comparison.display import Display
from mmselfkd.comparison.job_queue import Job, JobQueue, Step
from mmselfkd.comparison.recording import EVALUATION, FINAL
from mmselfkd.comparison.results import TEACHER, Plan

TOOLS = Path(__file__).resolve().parent
# what runs that are compared must share
SCHEDULE = ('train_cfg', 'optim_wrapper', 'param_scheduler', 'auto_scale_lr')
DATA = ('train_dataloader', 'val_dataloader', 'val_evaluator')


def make_parser(description, kind):
    """The arguments that comparing and tuning share; see :class:`Runs`."""
    parser = argparse.ArgumentParser(
        description=description,
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
        help=f'by default work_dirs/{kind}_STUDENT')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help="changes to the student's config, as tools/train.py takes them")
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='as tools/train.py')
    return parser


def parse(parser):
    """The arguments, checked as far as that needs no config."""
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


class Runs:
    """The runs of a command line, in one folder.

    Args:
        args (Namespace): From :func:`parse`.
        kind (str): By default the folder is ``work_dirs/KIND_STUDENT``.
    """

    def __init__(self, args, kind):
        self.args = args
        self.cfg = Config.fromfile(find_config(args.student))
        self.cfg.merge_from_dict(args.cfg_options or {})
        self.folder = args.work_dir or Path(
            'work_dirs', f'{kind}_{Path(args.student).stem}')
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
        if train:
            own.randomness = dict(own.get('randomness') or {}, seed=seed)
            add_hook(own)
        for key in ('val_dataloader', 'val_evaluator'):
            own[key] = self.cfg[key]
        self.write(TEACHER, own)
        Plan(TEACHER, seed, 0, settings,
             dict(checkpoint=self.args.teacher_checkpoint),
             str(self.config(TEACHER))).write(self.folder / TEACHER)
        return [self.steps(TEACHER, train, self.teacher_checkpoint)]

    @property
    def settings(self):
        return settings_of(self.cfg)

    def prepare(self, name, text, seed, position, method=None, options=None):
        """Write down what a run is, and its config.

        Args:
            name (str): Of the run and of its folder.
            text (str): The method as a command line names it.
            seed (int): Of the run.
            position (int): In the table.
            method (Method | None): None for the plain student.
            options (dict | None): Further arguments of the method.

        Raises:
            ConfigError: The folder has a run of other settings.
        """
        entry = None if method is None else self.entry(method, options)
        teacher = self.teacher_settings if (
            method is not None and method.needs_teacher) else None
        cfg = self.cfg.copy()
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []),
                            *([entry] if entry else [])]
        add_hook(cfg)
        Plan(text, seed, position, self.settings,
             dict(hook=entry, teacher=teacher), str(self.config(name))
             ).write(self.folder / name)
        self.write(name, cfg)

    def entry(self, method, options=None):
        """The entry of ``custom_hooks`` of a method."""
        return method.entry(
            self.args.teacher, self.teacher_checkpoint,
            self.args.trust_checkpoint, options)

    def job(self, name, needs_teacher=False):
        """Train and test; not before the teacher is trained, if need be."""
        job = self.steps(name, True, self.folder / name / FINAL)
        if needs_teacher and self.args.teacher_checkpoint is None:
            job.ready = (self.folder / TEACHER / FINAL).exists
        return job

    def config(self, name):
        """The file of a run's config."""
        return self.folder / 'configs' / f'{name}.py'

    def write(self, name, cfg):
        """Write a config of a run, which is tested with the val set."""
        cfg.test_dataloader, cfg.test_evaluator = (
            cfg.val_dataloader, cfg.val_evaluator)
        cfg.test_cfg = cfg.get('test_cfg') or dict(type='TestLoop')
        path = self.config(name)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix('.part.py')
            cfg.dump(str(part))
            part.replace(path)

    def steps(self, name, train, checkpoint):
        """Train if need be, and test."""
        folder, config = self.folder / name, self.config(name)
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

    def slots(self, most=1):
        """The environment of each run that may run at a time.

        Args:
            most (int): As many as there are, for Slurm.
        """
        gpus = (os.environ.get('CUDA_VISIBLE_DEVICES')
                or ','.join(map(str, range(torch.cuda.device_count()))))
        gpus = gpus.split(',') if torch.cuda.is_available() else []
        if self.args.launcher == 'slurm':
            return [dict(os.environ)] * (self.args.jobs or most)
        if not gpus:
            # more threads of one run gain less than more runs
            return [{'OMP_NUM_THREADS': '1', **os.environ}] * (
                self.args.jobs or 1)
        return [dict(os.environ, CUDA_VISIBLE_DEVICES=gpus[i % len(gpus)])
                for i in range(self.args.jobs or len(gpus))]

    def run(self, jobs, look=lambda: None):
        """Run jobs with their progress shown; the names of those that failed.

        Args:
            jobs (Sequence[Job]): In their order.
            look (Callable): Called over and over while they run.
        """
        slots = self.slots(len(jobs))
        with Display(jobs, len(slots)) as display:

            def look_at_both():
                look()
                display.look()

            return JobQueue(jobs, slots, wait=True, say=display.say,
                            look=look_at_both).run()


def run_tool(tool):
    """Run a tool and print what it found, or in one line why it ended.

    Args:
        tool (Callable): Gives its table in Markdown, the files that it wrote
            and the names of the runs that failed.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('terminated'))
    try:
        table, paths, failed = tool()
    except ConfigError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit('interrupted: the same command goes on from here')
    print('\n' + table)
    print('Written: ' + ', '.join(map(str, paths)))
    if failed:
        sys.exit('failed: ' + ', '.join(failed))


def settings_of(cfg):
    """What runs that are compared must share."""
    cfg = cfg.to_dict()
    return dict(
        student=cfg.get('model'),
        schedule={key: cfg.get(key) for key in SCHEDULE},
        data={key: cfg.get(key) for key in DATA},
        hooks=cfg.get('custom_hooks'),
        load_from=cfg.get('load_from'))


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
