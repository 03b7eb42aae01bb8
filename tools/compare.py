"""Trains the plain student and distilled ones alike, and compares them.

Each method and the plain student are trained with every seed by tools/train.py
and tested by tools/test.py. Stopped at any point, the same command goes on
where it was. At the end there is a table, and `tools/report.py WORK_DIR` makes
a page of it.

A method is the name of a method hook, a file that defines one, or either with
changes to its arguments: SKDHook:losses.loss_ho=None
"""
from runs import Runs, make_parser, parse, run_tool

from mmselfkd.comparison.results import PLAIN, read_results
from mmselfkd.comparison.tables import as_markdown, write_tables


def parse_args():
    return parse(make_parser(__doc__, 'compare'))


class Comparison(Runs):
    """The plain student and every method, with every seed.

    Args:
        args (Namespace): From :func:`parse_args`.
    """

    def __init__(self, args):
        super().__init__(args, 'compare')

    def jobs(self):
        """All jobs, those of one seed together.

        Raises:
            ConfigError: A folder has runs of other settings.
        """
        jobs = [] if self.args.teacher is None else self.teacher_jobs()
        for seed in self.args.seeds:
            name = f'plain-seed{seed}'
            self.prepare(name, PLAIN, seed, 0)
            jobs.append(self.job(name))
            for i, method in enumerate(self.methods, 1):
                name = f'{method.slug}-seed{seed}'
                self.prepare(name, method.text, seed, i, method)
                jobs.append(self.job(name, method.needs_teacher))
        return jobs


def compare(args):
    comparison = Comparison(args)
    failed = comparison.run(comparison.jobs())
    results = read_results([comparison.folder])
    return (as_markdown(results), write_tables(results, comparison.folder),
            failed)


def main():
    args = parse_args()
    run_tool(lambda: compare(args))


if __name__ == '__main__':
    main()
