"""Prints the tables of protocol.md from results.jsonl.

    python -m benchmarks.saturation.table camvid
    python -m benchmarks.saturation.table bccd --split held

``costs.json`` says what a step costs against the plain one, by config and
label ('camvid_taught cwd').
"""
import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from mmselfkd.comparison.statistics import paired

HERE = Path(__file__).resolve().parent
# configs whose labels begin with the name of a method
NAMED = ('taught', 'cached', 'alone', 'gfl_taught')
NAMES = {'camvid': 'CamVid', 'bccd': 'BCCD'}
# what the hosts log, and its factor to percent
METRICS = {'camvid': ('mIoU', 1), 'bccd': ('coco/bbox_mAP', 100)}


def read_scores(rows, data, split):
    """The last evaluation of every run.

    Args:
        rows (Iterable[dict]): Those of results.jsonl.
        data (str): 'camvid' or 'bccd'.
        split (str): As in the list of runs, 'val' or 'held'.

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


def read_costs(folder):
    """What a step costs against the plain one, by config and label.

    Args:
        folder (Path): Where costs.json is, if it was measured.
    """
    path = folder / 'costs.json'
    return json.loads(path.read_text()) if path.exists() else {}


def plain_config(config, configs):
    """The plain student that a run is compared with.

    Args:
        config (str): As 'bccd_gfl_taught'.
        configs (Iterable[str]): Those that were run.

    Returns:
        str | None: The ``*_student`` that shares the most of the name's
        beginning, as 'bccd_gfl_student'; None where there is none.
    """
    stems = [name.removesuffix('student') for name in configs
             if name.endswith('_student')]
    stems = [stem for stem in stems if config.startswith(stem)]
    return max(stems, key=len) + 'student' if stems else None


def make_rows(scores, costs):
    """The cells of the table.

    Args:
        scores (dict): From ``read_scores``.
        costs (dict[str, float]): By config and label, of a step against the
            plain one.

    Yields:
        list[str]: Titles first.
    """
    configs = {config for config, _, _ in scores}
    yield ['run', 'iterations', 'seeds', 'mean', 'deviation', 'gain',
           'step cost', 'gain at equal cost']
    for (config, label, n), by_seed in sorted(scores.items()):
        plain = plain_config(config, configs)
        lengths = {length: values for (name, text, length), values
                   in scores.items() if (name, text) == (plain, '')}
        values = list(by_seed.values())
        deviation = (f'{np.std(values, ddof=1):.2f}'
                     if len(values) > 1 else '-')
        name = ' '.join(filter(None, [config, label]))
        cells = [name, str(n), str(len(values)), f'{np.mean(values):.2f}',
                 deviation]
        cost = costs.get(name)
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


def by_method(rows):
    """What was measured of each method, from runs that are named by it.

    Args:
        rows (Iterable[dict]): Those of results.jsonl.

    Returns:
        dict[str, list[dict]]: By the name of the method: ``data``,
        ``run`` (config and label), ``iterations``, ``plain`` and ``distilled``
        (percent by seed, of the seeds that both have).
    """
    rows, found = list(rows), defaultdict(list)
    for data in METRICS:
        scores = read_scores(rows, data, 'val')
        configs = {config for config, _, _ in scores}
        for (config, label, iterations), values in sorted(scores.items()):
            if config.removeprefix(f'{data}_') not in NAMED:
                continue
            plain = scores.get(
                (plain_config(config, configs), '', iterations), {})
            seeds = sorted(values.keys() & plain.keys())
            if seeds:
                found[label.partition('-')[0]].append(dict(
                    data=data, iterations=iterations, run=f'{config} {label}',
                    plain={seed: plain[seed] for seed in seeds},
                    distilled={seed: values[seed] for seed in seeds}))
    return dict(found)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', choices=list(METRICS))
    parser.add_argument(
        '--split', choices=['val', 'held', 'eighth', 'quarter'], default='val')
    parser.add_argument(
        '--out', type=Path, default=HERE, help='the folder of results.jsonl')
    args = parser.parse_args()
    lines = (args.out / 'results.jsonl').read_text().splitlines()
    rows = make_rows(
        read_scores(map(json.loads, lines), args.data, args.split),
        read_costs(args.out))
    for i, cells in enumerate(rows):
        print('| ' + ' | '.join(cells) + ' |')
        if i == 0:
            print('| ' + ' | '.join('-' for _ in cells) + ' |')


if __name__ == '__main__':
    main()
