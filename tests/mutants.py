"""Mutation testing of the core: which small bugs would the tests not see?

``make mutants``, or for one module ``make mutants ONLY=mmselfkd/layout.py``.
mutmut changes one operator, number, argument or condition at a time, and runs
the tests that reach the function. A change that no test sees survives::

    python -m tests.mutants [MODULE ...] [--sample 30] [--again] [--show]

Each module has a folder of its own in ``build/mutants``, so a run that was
stopped goes on where it was. A function that was changed is tested anew;
``--again`` tests the survivors anew, after tests were changed. ``--show``
prints the survivors as diffs and runs nothing.

Messages, docstrings and decorated functions are not changed.
"""
import argparse
import json
import os
import random
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / 'build' / 'mutants'
MUTMUT = Path(sys.executable).with_name('mutmut')
SEED = 0
SURVIVED = (0, 33)  # exit codes of mutmut: all tests passed, or no test

# module -> the tests that cover it, below tests/: files, or single tests of
# files that take long. A loss has the file of its own name, that of constant
# maps, and more where it is named here.
WEIGHT, RUN = 'test_losses/test_weight.py', 'test_distillation/test_run.py'
FOLLOWING = 'test_teachers/test_following.py'
RESUME = 'test_hooks/test_resume.py::test_'
MORE = {
    'holistic_loss': ['test_losses/test_discriminator.py'],
    'mixskd_loss': ['test_losses/test_feature_discriminator.py'],
    **dict.fromkeys(['at_loss', 'cirkd_loss', 'cwd_loss', 'dist_loss',
                     'icsd_loss', 'nfd_loss', 'pairwise_loss',
                     'tfd_loss', 'value_loss'], [WEIGHT]),
    'kd_loss': ['test_losses/test_ka_dtd.py', WEIGHT]}
TESTS = {
    **{f'losses/{path.name}': [
        f'test_losses/test_{path.name}', 'test_losses/test_constant.py',
        *MORE.get(path.stem, [])]
       for path in sorted(ROOT.glob('mmselfkd/losses/[a-z]*.py'))},
    'losses/_maps.py': ['test_losses/test_common.py', WEIGHT],
    'layout.py': ['test_layout.py'],
    'schedules.py': ['test_schedules.py'],
    'distillation/level_matching.py': [
        'test_distillation/test_level_matching.py', RUN],
    'distillation/loss_term.py': [RUN],
    'distillation/run.py': [RUN],
    'distillation/auto_weight.py': ['test_distillation/test_auto_weight.py'],
    'distillation/discriminators.py': [
        RUN, 'test_distillation/test_discriminators.py'],
    'distillation/monitor.py': ['test_distillation/test_monitor.py'],
    'teachers/inputs.py': ['test_teachers/test_inputs.py'],
    'teachers/ema.py': [FOLLOWING],
    'teachers/snapshot.py': [FOLLOWING],
    'teachers/mix.py': ['test_teachers/test_mix.py'],
    'teachers/forward.py': ['test_teachers/test_frozen.py'],
    'hosts/tokens.py': ['test_hosts/test_tokens.py'],
    'hooks/checkpoint.py': [
        RESUME + 'changed_losses_say_what_was_kept_added_dropped',
        RESUME + 'an_adapter_of_another_shape_starts_anew',
        RESUME + 'a_new_loss_has_the_learning_rate_of_a_run_from_the_start'],
}


def covering(module):
    """The tests of a module, as pytest takes them."""
    return [f'tests/{test}' for test in TESTS[module]]


def prepare(module):
    """A folder in which mutmut finds this module and its tests."""
    folder = FOLDER / module.removesuffix('.py')
    folder.mkdir(parents=True, exist_ok=True)
    for path in ROOT.iterdir():
        link = folder / path.name
        if path.name not in ('build', 'pyproject.toml', '.git') \
                and not link.is_symlink():
            link.symlink_to(path)
    config = (ROOT / 'pyproject.toml').read_text()
    settings = dict(only_mutate=[f'mmselfkd/{module}'],
                    pytest_add_cli_args_test_selection=covering(module))
    table = '[tool.mutmut]\n'
    text = config.replace(table, table + ''.join(
        f'{key} = {json.dumps(value)}\n' for key, value in settings.items()))
    if not (folder / 'pyproject.toml').exists() \
            or (folder / 'pyproject.toml').read_text() != text:
        (folder / 'pyproject.toml').write_text(text)
    return folder


class Module:
    """What is known of the mutants of one module, of earlier runs too."""

    def __init__(self, module, sample):
        from mutmut import configuration
        from mutmut.mutation.file_mutation import mutate_file_contents

        self.module, self.folder = module, prepare(module)
        os.chdir(self.folder)
        configuration.reset_config()
        path = Path('mmselfkd') / module
        made = mutate_file_contents(str(path), path.read_text())
        self.hashes = made.hash_by_function_name
        prefix = f'mmselfkd.{module.removesuffix(".py").replace("/", ".")}.'
        self.all = [prefix + name for name in made.mutant_names]
        # a larger sample contains the smaller ones
        self.names = random.Random(SEED).sample(
            self.all, len(self.all))[:sample or None]
        self.meta = self.folder / 'mutants' / f'{path}.meta'

    def results(self):
        """Exit code by name; only of functions that are as they were."""
        if not self.meta.exists():
            return {}
        meta = json.loads(self.meta.read_text())
        known = meta['hash_by_function_name']
        return {name: code for name, code in meta['exit_code_by_key'].items()
                if code is not None and name in self.names
                and self.hashes.get(self.function(name))
                == known.get(self.function(name))}

    @staticmethod
    def function(name):
        return name.rpartition('__mutmut_')[0].rpartition('.')[2]

    def run(self, again):
        """Test what has no result yet."""
        done = self.results()
        todo = [name for name in self.names if name not in done
                or again and done[name] in SURVIVED]
        if todo:
            log = self.folder / 'log.txt'
            with log.open('w') as file:
                code = subprocess.run(
                    [MUTMUT, 'run', '--max-children', '1', *todo],
                    cwd=self.folder, stdout=file, stderr=file,
                    env=dict(os.environ, OMP_NUM_THREADS='1')).returncode
            if code:
                sys.exit(f'mutmut ended with {code}; see {log}')

    def survivors(self):
        return [name for name, code in self.results().items()
                if code in SURVIVED]

    def row(self):
        """Of the table in docs/reliability.md."""
        results, survivors = self.results(), self.survivors()
        name = self.module.removesuffix('.py')
        return (f'| `{name}` | {len(results)} of {len(self.all)} | '
                f'{len(results) - len(survivors)} | {len(survivors)} |')

    def show(self):
        for name in self.survivors():
            subprocess.run(
                [MUTMUT, 'show', name], cwd=self.folder)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('modules', nargs='*',
                        help='such as mmselfkd/layout.py')
    parser.add_argument('--sample', type=int, default=30,
                        help='mutants of a module, 0: all; seed 0')
    parser.add_argument('--again', action='store_true')
    parser.add_argument('--show', action='store_true')
    args = parser.parse_args()
    modules = [name.removeprefix('mmselfkd/') for name in args.modules]
    unknown = set(modules) - set(TESTS)
    if unknown:
        parser.error(f'{", ".join(sorted(unknown))}: not in the core, which '
                     f'is {", ".join(TESTS)}')
    rows = []
    for name in modules or TESTS:
        module = Module(name, args.sample)
        if not args.show:
            module.run(args.again)
        rows.append(module.row())
        if args.show:
            module.show()
        else:
            print(rows[-1], *module.survivors(), sep='\n  ', flush=True)
    print('\n| module | mutants | killed | survived |\n|---|---|---|---|',
          *rows, sep='\n')


if __name__ == '__main__':
    main()
