"""Evaluates a checkpoint with the test set and metrics of its config."""
import os.path as osp
import sys
from pathlib import Path

from mmengine.registry import RUNNERS
from train import (
    check_checkpoint,
    find_checkpoint,
    host_of,
    load_config,
    make_parser,
)

from mmselfkd.comparison.recording import evaluate, write_json


def parse_args():
    parser = make_parser(__doc__)
    parser.add_argument('checkpoint', help='path or URL of a checkpoint')
    parser.add_argument(
        '--out',
        help='keep the predictions: a folder (mmseg) or a .pkl file (mmdet)')
    parser.add_argument(
        '--show', action='store_true', help='show the predictions')
    parser.add_argument(
        '--show-dir', help='paint the predictions into this folder')
    parser.add_argument(
        '--wait-time',
        type=float,
        default=2,
        help='seconds that --show shows each')
    parser.add_argument(
        '--metrics',
        type=Path,
        metavar='FILE',
        help='write the metrics, those of each class and how each image was '
        'predicted into this JSON file')
    parser.add_argument(
        '--tta', action='store_true', help='augment while testing')
    return parser.parse_args()


def draw(cfg, args):
    """Switch the host's visualisation hook on."""
    hook = cfg.default_hooks.get('visualization')
    if hook is None:
        sys.exit('--show and --show-dir need default_hooks.visualization, '
                 'which this config lacks')
    hook.draw = True
    hook.show = args.show
    hook.wait_time = args.wait_time
    if args.show_dir and host_of(cfg) == 'mmdet':
        hook.test_out_dir = osp.abspath(args.show_dir)  # not in the work dir
    elif args.show_dir:
        cfg.visualizer.save_dir = args.show_dir


def keep_predictions(cfg, out):
    """Add what the host needs to write predictions to ``out``."""
    metrics = cfg.test_evaluator
    metrics = metrics if isinstance(metrics, list) else [metrics]
    if host_of(cfg) == 'mmdet':
        if not out.endswith(('.pkl', '.pickle')):
            sys.exit(f'--out {out!r}: a .pkl file is needed for mmdet')
        metrics.append(dict(type='mmdet.DumpDetResults', out_file_path=out))
    else:
        for metric in metrics:
            metric.update(output_dir=out, keep_results=True)
    cfg.test_evaluator = metrics


def augment(cfg):
    """Use the config's pipeline and model for test-time augmentation."""
    missing = sorted({'tta_pipeline', 'tta_model'} - set(cfg))
    if missing:
        sys.exit('--tta: the config has no ' + ' and no '.join(missing))
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    dataset.pipeline = cfg.tta_pipeline
    cfg.model = dict(**cfg.tta_model, module=cfg.model)


def main():
    args = parse_args()
    cfg = load_config(args)
    cfg.load_from = find_checkpoint(args.checkpoint)
    check_checkpoint(cfg.load_from, args.trust_checkpoint)
    cfg.resume = False
    if args.show or args.show_dir:
        draw(cfg, args)
    if args.out:
        keep_predictions(cfg, args.out)
    if args.tta:
        augment(cfg)
    runner = RUNNERS.build(cfg)
    if args.metrics:
        write_json(args.metrics, evaluate(runner))
    else:
        runner.test()


if __name__ == '__main__':
    main()
