"""Prints the tables of protocol.md from results.jsonl.

    python -m benchmarks.saturation.table camvid
    python -m benchmarks.saturation.table bccd --split held

``costs.json`` says what a step costs against the plain one, by config.
"""
import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from mmselfkd.comparison.statistics import paired

HERE = Path(__file__).resolve().parent
# what the hosts log, and its factor to percent
METRICS = {'camvid': ('mIoU', 1), 'bccd': ('coco/bbox_mAP', 100)}


def read_scores(rows, data, split):
    """The last evaluation of every run.

    Args:
        rows (Iterable[dict]): Those of results.jsonl.
        data (str): 'camvid' or 'bccd'.
        split (str): 'val' or 'held'.

    Returns:
        dict[tuple, dict]: (config, label, iterations) to percent by seed.
    """
    metric, factor = METRICS[data]
    scores = defaultdict(dict)
    for row in rows:
        if row['config'].startswith(data + '_') and row['split'] == split:
            last = row['metrics'][str(row['iterations'])]
            key = row['config'], row['label'], row['iterations']
            scores[key][row['seed']] = factor * last[metric]
    return dict(scores)


def at_cost(plain, iterations):
    """What the plain student reaches in ``iterations``, by seed.

    Linear in the logarithm of the iterations between two lengths that were
    run. A seed counts where it has both.

    Args:
        plain (dict[int, dict]): Percent by seed, by iterations.
        iterations (float): May be no length that was run.

    Returns:
        dict[int, float]: Percent by seed; empty beyond the longest run.
    """
    below = [n for n in plain if n <= iterations]
    above = [n for n in plain if n >= iterations]
    if not below or not above:
        return {}
    low, high = max(below), min(above)
    share = 0 if low == high else (
        np.log(iterations / low) / np.log(high / low))
    return {seed: (1 - share) * plain[low][seed] + share * plain[high][seed]
            for seed in sorted(plain[low].keys() & plain[high].keys())}


def make_rows(scores, costs, plain):
    """The cells of the table.

    Args:
        scores (dict): From ``read_scores``.
        costs (dict[str, float]): By config, of a step against the plain one.
        plain (str): The config of the plain student.

    Yields:
        list[str]: Titles first.
    """
    lengths = {n: by_seed for (config, label, n), by_seed in scores.items()
               if (config, label) == (plain, '')}
    yield ['run', 'iterations', 'seeds', 'mean', 'deviation', 'gain',
           'step cost', 'gain at equal cost']
    for (config, label, n), by_seed in sorted(scores.items()):
        values = list(by_seed.values())
        deviation = (f'{np.std(values, ddof=1):.2f}'
                     if len(values) > 1 else '-')
        cells = [' '.join(filter(None, [config, label])), str(n),
                 str(len(values)), f'{np.mean(values):.2f}', deviation]
        cost = costs.get(config)
        if config == plain and not label:
            # what twice the schedule gave
            cells += [paired(by_seed, lengths.get(n / 2, {})).write(), '1', '']
        else:
            cells += [
                paired(by_seed, lengths.get(n, {})).write(),
                '-' if cost is None else f'{cost:.2f}',
                '-' if cost is None else paired(
                    by_seed, at_cost(lengths, n * cost)).write()]
        yield cells


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', choices=list(METRICS))
    parser.add_argument('--split', choices=['val', 'held'], default='val')
    parser.add_argument(
        '--out', type=Path, default=HERE, help='the folder of results.jsonl')
    args = parser.parse_args()
    lines = (args.out / 'results.jsonl').read_text().splitlines()
    costs = args.out / 'costs.json'
    costs = json.loads(costs.read_text()) if costs.exists() else {}
    rows = make_rows(
        read_scores(map(json.loads, lines), args.data, args.split), costs,
        f'{args.data}_student')
    for i, cells in enumerate(rows):
        print('| ' + ' | '.join(cells) + ' |')
        if i == 0:
            print('| ' + ' | '.join('-' for _ in cells) + ' |')


if __name__ == '__main__':
    main()
