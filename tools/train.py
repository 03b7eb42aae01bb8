"""Trains what a config of mmseg, mmdet or this project describes."""
import argparse
import os
import os.path as osp
import sys
from difflib import get_close_matches
from pathlib import Path

import torch.distributed as dist
from mmengine.config import Config, DictAction
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.utils import get_installed_path, is_installed

import mmselfkd  # noqa: F401  registers the hooks


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
    # torchrun sets LOCAL_RANK, older launchers pass it in one of these forms
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser


def load_config(args):
    """The config that the shared arguments name, changed as they say."""
    path = find_config(args.config)
    cfg = Config.fromfile(path)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or osp.join(
        'work_dirs', Path(path).stem)
    cfg.launcher = args.launcher
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if args.launcher == 'pytorch' and get_device() == 'cpu':
        _distribute_on_cpu(cfg)
    return cfg


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
        sys.exit(f'no {kind} {path!r}, nor any other in that folder')
    near = get_close_matches(osp.basename(path), siblings, 3, 0) or siblings
    sys.exit(f'no {kind} {path!r}; nearest in that folder: ' +
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
        '--amp', action='store_true', help='train in mixed precision')
    return parser.parse_args()


def main():
    args = parse_args()
    cfg = load_config(args)
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else find_checkpoint(
            args.resume)
    if args.amp and cfg.optim_wrapper.type != 'AmpOptimWrapper':
        if cfg.optim_wrapper.type != 'OptimWrapper':
            sys.exit('--amp turns an OptimWrapper into an AmpOptimWrapper; '
                     f'this config has a {cfg.optim_wrapper.type}')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    RUNNERS.build(cfg).train()


if __name__ == '__main__':
    main()
