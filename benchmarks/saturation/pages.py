"""Writes what the runs gave into the pages that quote it.

    python -m benchmarks.saturation.pages

``../saturation.md`` has every run; ``../camvid.md`` and ``../bccd.md`` have
tables of some, and the README of a method has its own, between two comments.
"""
import json
import re
from statistics import fmean

from benchmarks.saturation import table
from mmselfkd.comparison.statistics import paired

ROOT = table.HERE.parent.parent
BEGIN = '<!-- by benchmarks/saturation/pages.py'
END = '<!-- end -->\n'
BLOCK = re.compile(f'({BEGIN}(?:: (.*?))? -->\n).*?({END})', re.S)
SPLITS = dict(
    val='', held=', a part of train in place of val',
    eighth=', labels of every eighth image',
    quarter=', labels of every fourth image')


def pages():
    """The pages by path, as they should be.

    Returns:
        dict[Path, str]: ``saturation.md``, the pages of the data sets, and
        the READMEs of the methods that were run.

    Raises:
        ValueError: A page has no place for its tables.
    """
    lines = (table.HERE / 'results.jsonl').read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    folder = table.HERE.parent
    found = {folder / 'saturation.md': all_tables(rows)}
    for data in table.NAMES:
        path = folder / f'{data}.md'
        found[path] = filled(path, lambda words, data=data: some_runs(
            rows, data, *words.split()))
    for method, runs in table.by_method(rows).items():
        path = ROOT / 'configs' / method / 'README.md'
        found[path] = filled(path, lambda _, runs=runs: block(runs))
    return found


def filled(path, write):
    """The page with what ``write`` makes of the words of each comment."""
    text, count = BLOCK.subn(
        lambda found: found[1] + write(found[2]) + found[3],
        path.read_text())
    if not count:
        raise ValueError(f'{path}: has no {BEGIN} --> and {END.strip()}')
    return text


def some_runs(rows, data, split, which):
    """The runs of one length, the best first, or those of plain models.

    Args:
        rows (list[dict]): Those of results.jsonl.
        data (str): As in ``table.NAMES``.
        split (str): As in ``SPLITS``.
        which (str): Iterations, or 'plain': students and teachers alone.
    """
    titles, *found = table.make_rows(
        table.read_scores(rows, data, split), table.read_costs(table.HERE))
    # what a plain student gained is over half of its schedule
    if which == 'plain':
        no_gain = '_teacher'
        found = [row for row in found if row[0].split()[0].endswith(
            ('_student', '_teacher'))]
    else:
        no_gain = '_student'
        found = [row for row in found
                 if row[1] == which and '_teacher' not in row[0]]
        found.sort(key=lambda row: -float(row[3]))
    for row in found:
        if no_gain in row[0]:
            row[5] = ''
    return markdown([titles, *found])


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
    return ('Measured here with ImageNet weights: mIoU on CamVid, box '
            'AP on BCCD, all runs in\n'
            '[one table](../../benchmarks/saturation.md). Student: '
            f'MobileNetV1 x0.25.{teacher}\n\n{markdown(rows)}')


def markdown(rows):
    """A table; the first row is the header."""
    header, *rest = rows
    lines = [header, ['-'] * len(header), *rest]
    return ''.join('| ' + ' | '.join(map(str, line)) + ' |\n'
                   for line in lines)


if __name__ == '__main__':
    for path, text in pages().items():
        path.write_text(text)
