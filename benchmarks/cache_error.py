"""What is lost of a segmentor's class scores when they are stored.

Runs a trained model on training batches, packs its scores as a cache does and
compares the probabilities that come out with those that went in, pixel by
pixel: total variation distance and Kullback-Leibler divergence at temperature
1, and the divergence at 4.
"""
import argparse
import os
from contextlib import ExitStack
from tempfile import TemporaryDirectory

import tools_path  # noqa: F401
import torch
import torch.nn.functional as F
from measuring import at_least, make_parser, table, write
from mmengine.registry import DATASETS, DefaultScope
from torch.utils.data import DataLoader
from train import load_config

from mmselfkd.hosts import host_of
from mmselfkd.taps import Tap
from mmselfkd.teachers import FrozenTeacher
from mmselfkd.teachers.cache_packing import Packing

HEADER = ('stored', 'mass of the others', 'total variation', 'KL, T = 1',
          'KL, T = 4', 'other top class', 'bytes a pixel')


def divergence(before, after, temperature):
    """The mean over the pixels."""
    return float(F.kl_div(
        (after / temperature).log_softmax(1),
        (before / temperature).log_softmax(1), reduction='none',
        log_target=True).sum(1).mean())


def measure(scores, precision, top_k):
    """A row of the table."""
    packing = Packing.of(scores, '', precision, top_k)
    parts = packing.pack(scores)
    found = packing.unpack(parts)
    before, after = scores.softmax(1), found.softmax(1)
    changed = (before.argmax(1) != after.argmax(1)).float().mean()
    kept = before.topk(top_k or scores.shape[1], 1).values.sum(1)
    size = sum(part.numel() * part.element_size() for part in parts.values())
    return (f'{precision}, top_k={top_k}', f'{float((1 - kept).mean()):.1e}',
            f'{float((before - after).abs().sum(1).mean() / 2):.1e}',
            f'{divergence(scores, found, 1):.1e}',
            f'{divergence(scores, found, 4):.1e}',
            f'{float(changed):.1e}',
            f'{size / before[:, 0].numel():.0f}')


@torch.no_grad()
def main():
    parser = make_parser(__doc__, rounds=8)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--top-k', nargs='+', type=at_least(1),
                        default=[1, 2, 3, 5])
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        cfg = load_config(argparse.Namespace(
            config=args.config, cfg_options=None, work_dir=folder,
            launcher='none', local_rank=0))
    DefaultScope.get_instance('error', scope_name=cfg.default_scope)
    model = FrozenTeacher(cfg, args.checkpoint).model.eval()
    with ExitStack() as stack:
        tap = Tap(model, 'logits', 'logits', stack)
        scores = []
        for batch in DataLoader(
                DATASETS.build(cfg.train_dataloader.dataset), batch_size=8,
                collate_fn=lambda items: dict(
                    inputs=[item['inputs'] for item in items],
                    data_samples=[item['data_samples'] for item in items])):
            data = model.data_preprocessor(batch, True)
            tap.open()
            host_of(model).run(model, data['inputs'], data['data_samples'])
            tap.close()
            scores += tap.take(data['inputs'].shape)
            if len(scores) == args.iters:
                break
    scores = torch.cat(scores)
    rows = [measure(scores, precision, top_k) for precision in (
        'fp32', 'fp16') for top_k in (None, *args.top_k)]
    write(f'{os.path.basename(args.config)}: {scores.shape[1]} classes, '
          f'{len(scores)} images, {scores[:, 0].numel():,} pixels\n\n' +
          table(HEADER, rows), args.out)


if __name__ == '__main__':
    main()
