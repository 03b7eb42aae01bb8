"""Distillation from start to end on procedural scenes.

Trains a teacher, the plain student and the distilled student by
``tools/train.py`` and shows what they learnt in one table and one picture.
An interrupted demo goes on where it stopped.
"""
import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import Patch
from mmengine.config import ConfigDict
from mmengine.registry import DATASETS
from summarize import read_log
from train import load_config, make_parser

from mmselfkd.comparison import pictures

TOOLS = Path(__file__).resolve().parent
CONFIGS = TOOLS.parent / 'configs' / 'toy'
PICTURE_ROWS = 4
CELL, DPI = 3, 128  # inches of an image in the picture, pixels of an inch
# networks this small gain little from more threads, and where other programs
# keep the cores busy the threads wait for each other most of the time
THREADS = dict(OMP_NUM_THREADS='1')


class Task(NamedTuple):
    """What differs between the demos.

    Args:
        work_dir (str): Where it puts what it makes, unless told otherwise.
        runs (dict[str, str]): Config of the teacher, the plain and the
            distilled student.
        draw (Callable): Called with the dataset, a sample and what the models
            make of it; gives the pictures of ground truth and predictions.
    """

    work_dir: str
    runs: dict[str, str]
    draw: Callable


def class_maps(dataset, sample, results):
    """Every pixel in the colour of its class."""
    maps = [sample['data_samples'].gt_sem_seg]
    maps += [result.pred_sem_seg for result in results]
    return [pictures.class_map(labels, dataset) for labels in maps]


def boxes(dataset, sample, results):
    """The image, enlarged, with boxes in the colours of their classes.

    Of the predicted ones the surest, as many as there are objects.
    """
    image = image_of(sample)
    zoom = CELL * DPI // len(image)

    def paint_boxes(result, which):
        return pictures.boxes(dataset, image, result, which, zoom)

    return [paint_boxes(results[0], 'gt'),
            *(paint_boxes(result, 'pred') for result in results)]


TASKS = dict(
    seg=Task(
        'work_dirs/demo',
        dict(
            teacher='fpn_r18-w32_1xb8-1k_toy-64x64.py',
            plain='fpn_r18-w8_1xb8-1k_toy-64x64.py',
            distilled='nfd_fpn_r18-w32_fpn_r18-w8_1xb8-1k_toy-64x64.py'),
        class_maps),
    det=Task(
        'work_dirs/demo-det',
        dict(
            teacher='fcos_r18-w32_1xb8-1k_toy-96x96.py',
            plain='fcos_r18-w8_1xb8-1k_toy-96x96.py',
            distilled='nfd-kd_fcos_r18-w32_fcos_r18-w8_1xb8-1k_toy-96x96.py'),
        boxes))


def train(config, folder, options, trust=False):
    """Train one model unless it is there; a dict of what came out."""
    flags = [str(CONFIGS / config), '--work-dir', str(folder),
             *['--trust-checkpoint'] * trust]
    if options:
        flags += ['--cfg-options', *options]
    cfg = load_config(make_parser(__doc__).parse_args(flags))
    last = cfg.train_cfg.max_iters
    checkpoint = folder / f'iter_{last}.pth'
    if last not in read_log(folder)[0]:
        if checkpoint.exists():  # stopped in its validation: not made up for
            (folder / 'last_checkpoint').unlink(missing_ok=True)
        print(f'\n=== {folder.name}: {config}\n', flush=True)
        subprocess.run(
            [sys.executable, str(TOOLS / 'train.py'), *flags, '--resume'],
            env={**THREADS, **os.environ},
            check=True)
    scores, times = read_log(folder)
    return dict(
        cfg=cfg,
        checkpoint=checkpoint,
        scores=scores[last],
        seconds=last * np.mean(list(times.values())))


def print_table(runs, models):
    """One line a model."""
    titles = list(runs['teacher']['scores'])
    print(f'\n{"":<10}' + ''.join(f'{title:>8}' for title in titles) +
          f'{"parameters":>14}{"training time":>16}')
    for name, run in runs.items():
        size = sum(weight.numel() for weight in models[name].parameters())
        minutes, seconds = divmod(round(run['seconds']), 60)
        print(f'{name:<10}' +
              ''.join(f'{run["scores"][title]:>8}' for title in titles) +
              f'{size:>14,}{minutes:>9}:{seconds:02} min')


def paint(models, dataset, draw, path):
    """Image, ground truth and predictions side by side."""
    titles = ('image', 'ground truth', *models)
    figure, axes = plt.subplots(
        PICTURE_ROWS,
        len(titles),
        figsize=(CELL * len(titles), CELL * PICTURE_ROWS + 0.6),
        layout='constrained',
        squeeze=False)
    for row, sample in zip(axes, dataset):
        results = [pictures.predict(model, sample)
                   for model in models.values()]
        shown = [image_of(sample), *draw(dataset, sample, results)]
        for axis, picture in zip(row, shown):
            axis.imshow(picture)
            axis.set_axis_off()
    for axis, title in zip(axes[0], titles):
        axis.set_title(title)
    figure.legend(
        handles=[
            Patch(color=np.divide(colour, 255), label=label)
            for colour, label in zip(dataset.metainfo['palette'],
                                     dataset.metainfo['classes'])
        ],
        loc='outside lower center',
        ncols=4,
        frameon=False)
    figure.savefig(path, dpi=DPI)


def image_of(sample):
    """The image of a sample: (H, W, 3), RGB."""
    return sample['inputs'].numpy()[::-1].transpose(1, 2, 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--task',
        choices=list(TASKS),
        default='seg',
        help='segmentation or boxes')
    parser.add_argument(
        '--work-dir',
        type=Path,
        help='by default ' + ' or '.join(
            task.work_dir for task in TASKS.values()))
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        help='changes to the three configs, as tools/train.py takes them')
    parser.add_argument(
        '--trust-checkpoint', action='store_true', help='as tools/train.py')
    args = parser.parse_args()
    matplotlib.use('Agg')
    task = TASKS[args.task]
    work_dir = args.work_dir or Path(task.work_dir)

    runs = {}
    for name, config in task.runs.items():
        options = list(args.cfg_options)
        if name == 'distilled':
            options.append('custom_hooks.0.teacher.checkpoint='
                           f'{runs["teacher"]["checkpoint"]}')
        runs[name] = train(config, work_dir / name, options,
                           args.trust_checkpoint)

    models = {
        name: pictures.load_model(run['cfg'], run['checkpoint'],
                                  args.trust_checkpoint)
        for name, run in runs.items()
    }
    dataset = DATASETS.build(
        ConfigDict(runs['plain']['cfg'].val_dataloader.dataset))
    picture = work_dir / 'demo.png'
    paint(models, dataset, task.draw, picture)
    print_table(runs, models)
    print(f'\nDistilled checkpoint, a stock student: '
          f'{runs["distilled"]["checkpoint"]}\nPicture: {picture}')


if __name__ == '__main__':
    main()
