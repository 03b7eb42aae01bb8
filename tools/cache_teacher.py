"""Asks a cached teacher everything beforehand, so that training need not.

Takes the config that will be trained, with FixedViews in its loader and
`cache` in its teacher. What is stored already is not asked again, so a run
that was stopped goes on. Training then needs neither the teacher's memory nor
its weights.
"""
import sys

from mmengine.registry import RUNNERS
from train import (
    add_method_options,
    check_initial_weights,
    load_config,
    make_parser,
    parse,
    use_amp,
)

from mmselfkd.errors import ConfigError
from mmselfkd.hooks.filling import fill_caches


def main():
    parser = make_parser(__doc__)
    parser.add_argument(
        '--amp',
        action='store_true',
        help='for a training with --amp, whose teacher runs under it too')
    add_method_options(parser)
    args = parse(parser)
    cfg = load_config(args)
    if args.amp:
        use_amp(cfg)
    check_initial_weights(cfg, args.trust_checkpoint)
    for stage in ('val', 'test'):
        for part in ('dataloader', 'evaluator', 'cfg'):
            cfg[f'{stage}_{part}'] = None
    try:
        fill_caches(RUNNERS.build(cfg))
    except ConfigError as error:
        sys.exit(f'{type(error).__name__}: {error}')


if __name__ == '__main__':
    main()
