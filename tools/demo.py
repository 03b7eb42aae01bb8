"""Distillation from start to end on procedural scenes.

Trains a teacher, the plain student and the distilled student by
``tools/train.py`` and shows what they learnt in one table and one picture.
An interrupted demo goes on where it stopped.
"""
import argparse
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.patches import Patch
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.registry import DATASETS
from mmseg.apis import init_model
from summarize import read_log
from train import load_config, make_parser

TOOLS = Path(__file__).resolve().parent
CONFIGS = TOOLS.parent / 'configs' / 'toy'
RUNS = dict(
    teacher='fpn_r18-w32_1xb8-1k_toy-64x64.py',
    plain='fpn_r18-w8_1xb8-1k_toy-64x64.py',
    distilled='nfd_fpn_r18-w32_fpn_r18-w8_1xb8-1k_toy-64x64.py')
PICTURE_ROWS = 4
# networks this small gain little from more threads, and where other programs
# keep the cores busy the threads wait for each other most of the time
THREADS = dict(OMP_NUM_THREADS='1')


def train(name, folder, options):
    """Train one model unless it is there; a dict of what came out."""
    flags = [str(CONFIGS / RUNS[name]), '--work-dir', str(folder)]
    if options:
        flags += ['--cfg-options', *options]
    cfg = load_config(make_parser(__doc__).parse_args(flags))
    last = cfg.train_cfg.max_iters
    if last not in read_log(folder)[0]:
        print(f'\n=== {name}: {RUNS[name]}\n', flush=True)
        subprocess.run(
            [sys.executable, str(TOOLS / 'train.py'), *flags, '--resume'],
            env={**THREADS, **os.environ},
            check=True)
    miou, times = read_log(folder)
    return dict(
        cfg=cfg,
        checkpoint=folder / f'iter_{last}.pth',
        miou=miou[last],
        seconds=last * np.mean(list(times.values())))


def print_table(runs, models):
    """One line a model."""
    print(f'\n{"":<10}{"mIoU":>8}{"parameters":>14}{"training time":>16}')
    for name, run in runs.items():
        size = sum(weight.numel() for weight in models[name].parameters())
        minutes, seconds = divmod(round(run['seconds']), 60)
        print(f'{name:<10}{run["miou"]:>8.2f}{size:>14,}'
              f'{minutes:>9}:{seconds:02} min')


def paint(models, dataset, path):
    """Image, ground truth and predictions side by side."""
    palette = np.array(dataset.metainfo['palette'], np.uint8)
    titles = ('image', 'ground truth', *models)
    figure, axes = plt.subplots(
        PICTURE_ROWS,
        len(titles),
        figsize=(2 * len(titles), 2 * PICTURE_ROWS + 0.6),
        layout='constrained',
        squeeze=False)
    for row, sample in zip(axes, dataset):
        truth = sample['data_samples'].gt_sem_seg.data[0].numpy()
        maps = [sample['inputs'].numpy()[::-1].transpose(1, 2, 0)]
        maps += [palette[labels] for labels in (truth, *(
            predict(model, sample) for model in models.values()))]
        for axis, shown in zip(row, maps):
            axis.imshow(shown)
            axis.set_axis_off()
    for axis, title in zip(axes[0], titles):
        axis.set_title(title)
    figure.legend(
        handles=[
            Patch(color=colour / 255, label=label)
            for colour, label in zip(palette, dataset.metainfo['classes'])
        ],
        loc='outside lower center',
        ncols=4,
        frameon=False)
    figure.savefig(path, dpi=120)


@torch.no_grad()
def predict(model, sample):
    """The class map of one sample."""
    result, = model.test_step(pseudo_collate([sample]))
    return result.pred_sem_seg.data[0].cpu().numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--work-dir', type=Path, default=Path('work_dirs/demo'))
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        help='changes to the three configs, as tools/train.py takes them')
    args = parser.parse_args()
    matplotlib.use('Agg')

    runs = {}
    for name in RUNS:
        options = list(args.cfg_options)
        if name == 'distilled':
            options.append('custom_hooks.0.teacher.checkpoint='
                           f'{runs["teacher"]["checkpoint"]}')
        runs[name] = train(name, args.work_dir / name, options)

    models = {
        name: init_model(run['cfg'], str(run['checkpoint']), get_device())
        for name, run in runs.items()
    }
    dataset = DATASETS.build(
        ConfigDict(runs['plain']['cfg'].val_dataloader.dataset))
    picture = args.work_dir / 'demo.png'
    paint(models, dataset, picture)
    print_table(runs, models)
    print(f'\nDistilled checkpoint, a stock student: '
          f'{runs["distilled"]["checkpoint"]}\nPicture: {picture}')


if __name__ == '__main__':
    main()
