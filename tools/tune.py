"""Tunes the loss weights, temperatures and schedules of methods by Optuna.

Each method gets the same number of trials. Each trial is a run of
tools/train.py, and is pruned if its validations lie below those of others. The
first is the method as shipped. Stopped at any point, the same command goes on
where it was, and several commands may work in one folder. The first seed is
that of the trials; with the others the best one and the method as shipped are
trained again, so that the gain at the end is not that of a lucky run.

What is searched is the method's search_space, or what --space names. At the
end there is a table, and the entry of custom_hooks to paste.
"""
import math
import time
from dataclasses import replace

from mmengine.config import Config, DictAction
from runs import Runs, make_parser, parse, run_tool

from mmselfkd.comparison.holdout import hold_out
from mmselfkd.comparison.job_queue import FAILURE
from mmselfkd.comparison.recording import EVALUATION, read_json
from mmselfkd.comparison.results import TEACHER
from mmselfkd.comparison.search_space import SearchSpace
from mmselfkd.comparison.statistics import paired
from mmselfkd.comparison.tuning import PRUNED, Study, sign_of
from mmselfkd.comparison.tuning_tables import Outcome, as_markdown, write

INTERVAL = 2.0  # seconds between looks at the validations


def parse_args():
    parser = make_parser(__doc__, 'tune')
    parser.add_argument(
        '--trials', type=int, default=20, help='of each method; 20 by default')
    parser.add_argument(
        '--holdout',
        type=float,
        metavar='SHARE',
        help='judge the trials on this share of the train set, such as 0.1, '
        'which they are not trained on, and never on val')
    parser.add_argument(
        '--metric',
        help='by which trials are judged, such as mIoU or coco/bbox_mAP; by '
        'default the one that tools/compare.py compares by')
    parser.add_argument(
        '--space',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUES',
        help='what is searched instead of the search_space of the method: a '
        "range 'losses.loss_kd.loss_weight=(0.1,10)', on a logarithmic "
        "scale, or values 'losses.loss_kd.temperature=[1,2,4]'")
    args = parse(parser)
    if args.trials < 2:
        parser.error(f'--trials {args.trials}: at least 2, since the first '
                     'is the method as shipped')
    if args.space and len(args.methods) > 1:
        parser.error('--space: is for one method, and --methods names '
                     f'{len(args.methods)}')
    if args.launcher == 'slurm' and args.jobs is None:
        parser.error('--launcher slurm needs --jobs: trials at a time')
    return args


class Tuning(Runs):
    """The studies of a command line.

    Args:
        args (Namespace): From :func:`parse_args`.

    Raises:
        ConfigError: Something of it cannot work.
    """

    def __init__(self, args):
        super().__init__(args, 'tune')
        spaces = [
            SearchSpace(method.hook, args.space, method.options,
                        '--space' if args.space else None)
            for method in self.methods]
        if args.holdout is not None:
            hold_out(self.cfg, args.holdout, self.folder)
        checkpoint = (self.cfg.get('default_hooks') or {}).get('checkpoint')
        if checkpoint:  # of so many runs
            checkpoint.update(max_keep_ckpts=1, save_best=None)
        self.seed, *self.further = args.seeds
        self.studies = [
            Study(self.folder, method.slug, space,
                  dict(method=method.text, seed=self.seed,
                       holdout=args.holdout), args.metric, self.seed)
            for method, space in zip(self.methods, spaces)]
        self.looked = -math.inf

    def jobs(self):
        """The teacher's test, and all trials, method by method.

        Raises:
            ConfigError: The folder has trials of other settings.
        """
        jobs = [] if self.args.teacher is None else self.teacher_jobs()
        tested = bool(jobs)
        for i, study in enumerate(self.studies):
            self.start(i, study.folder_of(0).name, self.seed, {})
            for number in range(self.args.trials):
                job = self.trial(i, number)
                if tested and self.methods[i].needs_teacher:
                    job.ready = self.teacher_is_done
                jobs.append(job)
        return jobs

    def teacher_is_done(self):
        folder = self.folder / TEACHER
        return (folder / EVALUATION).exists() or (
            self.args.teacher_checkpoint is not None
            and (folder / FAILURE).exists())  # of other classes, perhaps

    def start(self, i, name, seed, options):
        """Write down what a run of a method is, and its config."""
        method = self.methods[i]
        self.prepare(name, with_options(method.text, options), seed, i,
                     method, options)

    def trial(self, i, number):
        """The job of a trial, whose arguments are drawn when it starts."""
        study = self.studies[i]
        folder = study.folder_of(number)
        job = self.job(folder.name)
        train, test = job.steps
        pruned = (folder / PRUNED).exists

        def command():
            self.start(i, folder.name, self.seed, study.ask(number))
            return train.command()

        job.steps = [
            replace(train, command=command, given_up=pruned,
                    done=lambda: train.done() or pruned()),
            replace(test, done=lambda: test.done() or pruned())]
        job.ended = lambda: 'pruned' if pruned() else 'finished'
        return job

    def look(self):
        """Tell Optuna what the trials have measured, and prune."""
        if time.monotonic() < self.looked + INTERVAL:
            return
        self.looked = time.monotonic()
        measured = read_json(self.folder / TEACHER / EVALUATION)
        for study in self.studies:
            study.metric(measured.get('metrics', ()))
            study.settle()

    def outcome(self, i):
        """What a study has found."""
        method, study = self.methods[i], self.studies[i]
        study.settle()
        trials = study.trials(self.args.trials)
        best = study.best(trials)
        options = {} if best is None or best.number == 0 else (
            study.space.options(best.values))
        return Outcome(
            with_options(method.text, {}), with_options(method.text, options),
            Config(dict(custom_hooks=[self.entry(method, options)])
                   ).pretty_text, study.metric_of(trials), self.seed,
            self.args.holdout, trials, best, options)

    def confirmations(self, outcomes):
        """The best of each study and the method as shipped, further seeds."""
        jobs = []
        for i, outcome in enumerate(outcomes):
            if outcome.is_better:
                for seed in self.further:
                    for number, options in ((0, {}), (
                            outcome.best.number, outcome.options)):
                        name = self.again(i, number, seed).name
                        self.start(i, name, seed, options)
                        jobs.append(self.job(name))
        return jobs

    def again(self, i, number, seed):
        """The folder of a trial with a further seed."""
        folder = self.studies[i].folder_of(number)
        return folder.with_name(f'{folder.name}-seed{seed}')

    def confirmed(self, i, outcome):
        """The gain over the further seeds, paired by seed."""

        def values(number):
            found = {seed: read_json(self.again(i, number, seed) / EVALUATION)
                     for seed in self.further}
            return {seed: sign_of(outcome.metric) *
                    value['metrics'].get(outcome.metric, math.nan)
                    for seed, value in found.items() if value}

        return outcome if not outcome.is_better else outcome._replace(
            confirmed=paired(values(outcome.best.number), values(0)))


def with_options(text, options):
    """A method as the command line names it, with further options."""
    return ':'.join([text, *(f'{key}={value}'
                             for key, value in options.items())])


def tune(args):
    tuning = Tuning(args)
    failed = tuning.run(tuning.jobs(), tuning.look)
    found = [tuning.outcome(i) for i in range(len(tuning.studies))]
    failed += tuning.run(tuning.confirmations(found))
    found = [tuning.confirmed(i, outcome) for i, outcome in enumerate(found)]
    return as_markdown(found), write(found, tuning.folder), failed


def main():
    args = parse_args()
    run_tool(lambda: tune(args))


if __name__ == '__main__':
    main()
