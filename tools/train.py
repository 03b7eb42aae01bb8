"""Trains what a config of mmseg, mmdet or this project describes.

With --method it distils any student's config, without a config of its own:
the method hook is added to custom_hooks, and the whole config is written into
the work directory, where the stock train.py of mmseg and mmdet can run it from
the same folder.
"""
import argparse
import os
import os.path as osp
import sys
from difflib import get_close_matches
from pathlib import Path

import torch
import torch.distributed as dist
from methods import is_distillation, make_entry
from mmengine.config import Config, DictAction
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.utils import get_installed_path, is_installed

import mmselfkd  # noqa: F401  registers the hooks
from mmselfkd.checkpoint_files import (
    is_whole,
    load_checkpoint_file,
    newest_whole,
)


def make_parser(description):
    """The arguments that training and testing share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        'config',
        help='path of a config, or its name in an installed package: '
        'mmselfkd::..., mmseg::..., mmdet::...')
    parser.add_argument(
        '--work-dir', help='where logs, checkpoints and results go')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='changes to the config, as key=value; a list as key="[a,b]" or '
        'key=a,b, without blanks')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes of a distributed run')
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='read checkpoints although that runs the code in them; without '
        'it, one that holds more than weights and plain data is refused')
    # torchrun sets LOCAL_RANK, older launchers pass it in one of these forms
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser


def load_config(args):
    """The config that the shared arguments name, changed as they say."""
    path = find_config(args.config)
    cfg = Config.fromfile(path)
    folder = cfg.get('work_dir') or osp.join('work_dirs', Path(path).stem)
    method = getattr(args, 'method', None)
    if method:
        add_method(cfg, args)
        parent, name = osp.split(folder.rstrip('/'))
        prefix = method.rpartition('.')[2].removesuffix('Hook').lower()
        folder = osp.join(parent, f'{prefix}_{name}')
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
        if 'work_dir' in args.cfg_options:
            folder = cfg.work_dir
    cfg.work_dir = args.work_dir or folder
    cfg.launcher = args.launcher
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if args.launcher == 'pytorch' and get_device() == 'cpu':
        _distribute_on_cpu(cfg)
    return cfg


def add_method(cfg, args):
    """Append the hook that --method and its options describe."""
    scope = cfg.get('default_scope')
    if args.teacher:
        find_config(args.teacher)
    if args.teacher_checkpoint not in (None, 'random'):
        find_checkpoint(args.teacher_checkpoint)
    entry = make_entry(args.method, scope, args.teacher,
                       args.teacher_checkpoint, args.method_options,
                       args.trust_checkpoint)
    hooks = list(cfg.get('custom_hooks') or [])
    for hook in hooks:
        if is_distillation(hook, scope):
            print(f'--method {args.method}: the config distils already, by '
                  f'{hook["type"]}; the run has the losses of both')
    cfg.custom_hooks = [*hooks, entry]


def find_config(name):
    """The file of a config given by its path or as ``package::name``."""
    package, colons, inner = name.partition('::')
    if not colons:
        return find_file(name, '.py', 'config')
    distribution = MODULE2PACKAGE.get(package, package)
    if not is_installed(distribution):
        sys.exit(f'config {name!r}: {package} is not installed')
    configs = osp.join(get_installed_path(distribution), '.mim', 'configs')
    return find_file(osp.join(configs, inner), '.py', 'config')


def find_file(path, suffix, kind):
    """``path`` if it is a file; if not, ends with the names nearest to it."""
    if osp.isfile(path):
        return path
    folder = Path(path).parent
    siblings = sorted(file.name for file in folder.glob('*' + suffix))
    if not siblings:
        sys.exit(f'no {kind} {path!r}, nor any other in {folder.resolve()}')
    near = get_close_matches(osp.basename(path), siblings, 3, 0) or siblings
    sys.exit(f'no {kind} {path!r}; nearest in {folder.resolve()}: ' +
             ', '.join(near[:3]))


def find_checkpoint(path):
    """``path`` if it is a file or a URL."""
    return path if '://' in path else find_file(path, '.pth', 'checkpoint')


def _distribute_on_cpu(cfg):
    """The launcher's own set-up needs CUDA: forestall it with gloo."""
    dist.init_process_group('gloo')
    cfg.setdefault(
        'model_wrapper_cfg',
        dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False)))


def host_of(cfg):
    """``mmseg`` or ``mmdet``: whose model the config has."""
    scope = cfg.get('default_scope')
    if scope:
        return scope
    kind = cfg.model['type']  # of a new-style config: a class, or its path
    return (kind if isinstance(kind, str) else kind.__module__).split('.')[0]


def check_checkpoint(path, trust):
    """End if reading ``path`` would run code; mmengine itself would run it.

    mmengine's own loading tries torch's safe loader, if at all, and falls back
    on the other.
    """
    if trust:
        return
    try:
        load_checkpoint_file(path, option='--trust-checkpoint')
    except ValueError as error:
        sys.exit(str(error))


def check_start(cfg, trust):
    """End if the run cannot or should not start from what the config says."""
    check_initial_weights(cfg, trust)
    path = cfg.get('load_from')
    if path is None and cfg.get('resume'):
        last = Path(cfg.work_dir) / 'last_checkpoint'
        path = last.read_text().strip() if last.is_file() else None
        if path is not None and not (osp.isfile(path) and is_whole(path)):
            sys.exit(f'--resume: {path!r}, the last checkpoint, is ' +
                     ('cut off' if osp.isfile(path) else 'not there') +
                     _newest_whole(path))
        # torch before 2.5 would refuse what the run itself has written
        trust = trust or not hasattr(torch.serialization, 'safe_globals')
    if path is not None:
        check_checkpoint(path, trust)


def check_initial_weights(cfg, trust):
    """The same for the files that the parts of the model start from."""
    for file in filter(osp.isfile, initial_weights(cfg.model)):
        check_checkpoint(file, trust)


def initial_weights(part):
    """The files and URLs that the parts of a model start from."""
    if isinstance(part, dict):
        for name, value in part.items():
            is_init = name == 'checkpoint' and part.get('type') == 'Pretrained'
            if isinstance(value, str) and (
                    is_init or name in ('pretrained', 'teacher_ckpt')):
                yield value
    for inner in part.values() if isinstance(part, dict) else part if (
            isinstance(part, (list, tuple))) else ():
        yield from initial_weights(inner)


def _newest_whole(path):
    """What to resume from instead, for the error."""
    file = newest_whole(Path(path).parent)
    return (', and there is no whole one beside it' if file is None else
            f'; the newest whole one: --resume {file}')


def use_amp(cfg):
    """What --amp asks for."""
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    name = (kind if isinstance(kind, str) else kind.__name__).split('.')[-1]
    if name not in ('OptimWrapper', 'AmpOptimWrapper'):
        sys.exit('--amp turns an OptimWrapper into an AmpOptimWrapper; '
                 f'this config has a {name}')
    if get_device() == 'cpu':
        sys.exit('--amp: mixed precision needs a GPU, and there is none')
    if name == 'OptimWrapper':
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def add_method_options(parser):
    """The arguments that distil a config which has no distillation."""
    method = parser.add_argument_group(
        'distillation of a config that has none',
        'A config that distils already keeps its hook: the run has the losses '
        'of both.')
    method.add_argument(
        '--method',
        metavar='HOOK',
        help='such as NFDHook; tools/methods.py lists them. By default the '
        "work directory is then the student's with the method in front, such "
        'as work_dirs/nfd_STUDENT')
    method.add_argument(
        '--teacher',
        metavar='CONFIG',
        help='config of a trained teacher, as the first argument. A relative '
        'path stays relative to the current folder')
    method.add_argument(
        '--teacher-checkpoint',
        metavar='FILE',
        help="its weights: path, URL, or 'random' for untrained ones")
    method.add_argument(
        '--method-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='further arguments of the hook, such as losses.loss_ho=None '
        'losses.loss_pi.loss_weight=5 teacher.precision=bf16')


def parse(parser):
    """The arguments; those of a method need one."""
    args = parser.parse_args()
    for name in ('teacher', 'teacher_checkpoint', 'method_options'):
        if getattr(args, name) is not None and args.method is None:
            parser.error(f'--{name.replace("_", "-")} needs --method')
    return args


def parse_args():
    parser = make_parser(__doc__)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from a checkpoint, by default from the latest in the '
        'work directory')
    parser.add_argument(
        '--amp',
        action='store_true',
        help='train in mixed precision; needs a GPU')
    add_method_options(parser)
    return parse(parser)


def main():
    args = parse_args()
    cfg = load_config(args)
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else find_checkpoint(
            args.resume)
    if args.amp:
        use_amp(cfg)
    check_start(cfg, args.trust_checkpoint)
    RUNNERS.build(cfg).train()


if __name__ == '__main__':
    main()
