"""Writes what the runs gave into the pages that quote it.

    python -m benchmarks.saturation.pages

``../saturation.md`` has every run; the README of a method has its own, between
two comments.
"""
import json
import re
from statistics import fmean

from benchmarks.saturation import table
from mmselfkd.comparison.statistics import paired

ROOT = table.HERE.parent.parent
BEGIN = '<!-- by benchmarks/saturation/pages.py -->\n'
END = '<!-- end -->\n'
SPLITS = dict(
    val='', held=', a part of train in place of val',
    eighth=', labels of every eighth image',
    quarter=', labels of every fourth image')


def pages():
    """The pages by path, as they should be.

    Returns:
        dict[Path, str]: ``saturation.md`` and the READMEs of the methods that
        were run.

    Raises:
        ValueError: A README has no place for its block.
    """
    lines = (table.HERE / 'results.jsonl').read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    found = {table.HERE.parent / 'saturation.md': all_tables(rows)}
    for method, runs in table.by_method(rows).items():
        path = ROOT / 'configs' / method / 'README.md'
        text, count = re.subn(
            f'{BEGIN}.*?{END}', lambda _, runs=runs: block(runs),
            path.read_text(), flags=re.S)
        if count != 1:
            raise ValueError(f'{path}: {BEGIN.strip()} and {END.strip()} '
                             f'must be there once, but are {count} times')
        found[path] = text
    return found


def all_tables(rows):
    """Every run, by data set and split."""
    parts = [
        '# Runs with ImageNet weights\n\n'
        'Written by `python -m benchmarks.saturation.pages` from\n'
        '`benchmarks/saturation/results.jsonl`. What the columns mean: '
        '[protocol](protocol.md#columns).\n'
        'A gain of one seed has no interval; plain students that differ in '
        'the seed alone\nare 1 to 2 mIoU apart.\n']
    costs = table.read_costs(table.HERE)
    for data, name in table.NAMES.items():
        for split, text in SPLITS.items():
            scores = table.read_scores(rows, data, split)
            if scores:
                parts.append(f'## {name}{text}\n\n' + markdown(
                    table.make_rows(scores, costs)))
    return '\n'.join(parts)


def block(runs):
    """What the README of a method says of its runs."""
    without = all('_alone ' in run['run'] for run in runs)
    teacher = '' if without else ' Teacher: EfficientNet-Lite2.'
    rows = [('run', 'iterations', 'seeds', 'student alone', 'distilled',
             'gain')]
    rows += [(f'`{run["run"]}`', run['iterations'],
              ', '.join(map(str, run['plain'])),
              f'{fmean(run["plain"].values()):.2f}',
              f'{fmean(run["distilled"].values()):.2f}',
              paired(run['distilled'], run['plain']).write()) for run in runs]
    return (f'{BEGIN}Measured here with ImageNet weights: mIoU on CamVid, box '
            'AP on BCCD, all runs in\n'
            '[one table](../../benchmarks/saturation.md). Student: '
            f'MobileNetV1 x0.25.{teacher}\n\n{markdown(rows)}{END}')


def markdown(rows):
    """A table; the first row is the header."""
    header, *rest = rows
    lines = [header, ['-'] * len(header), *rest]
    return ''.join('| ' + ' | '.join(map(str, line)) + ' |\n'
                   for line in lines)


if __name__ == '__main__':
    for path, text in pages().items():
        path.write_text(text)
