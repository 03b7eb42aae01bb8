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
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / 'build' / 'mutants'
SEED = 0
SURVIVED = (0, 33)  # exit codes of mutmut: all tests passed, or no test

# module -> the tests that cover it, below tests/: files, or single tests of
# files that take long. A loss has the file of its own name, that of constant
# maps, and more where it is named here.
WEIGHT, RUN = 'test_losses/test_weight.py', 'test_distillation/test_run.py'
FOLLOWING = 'test_teachers/test_following.py'
FROZEN = 'test_teachers/test_frozen.py'
HOOK = 'test_hooks/test_distill_hook.py::test_'
ERRORS = 'test_hooks/test_errors.py::test_'
RESUME = 'test_hooks/test_resume.py::test_'
FEATURES = 'test_hooks/test_runner_features.py::test_'
HOSTS = ['test_hosts/test_mmseg.py', 'test_hosts/test_mmdet.py']
CACHED = 'test_teachers/test_cached.py::test_'
UNLABELLED = [f'test_hooks/test_unlabelled.py::test_{name}' for name in (
    'both_parts_are_logged_and_weighted', 'labels_are_not_looked_at',
    'errors_before_training', 'two_and_two_are_four',
    'a_batch_sampler_has_the_endless_sampler_too',
    'losses_that_need_labels_alone', 'the_student_teaches_itself_on_them')]
MORE = {
    'base': ['test_losses/test_holistic_loss.py::test_optimizer_config'],
    'holistic_loss': ['test_losses/test_discriminator.py'],
    'mixskd_loss': ['test_losses/test_feature_discriminator.py'],
    **dict.fromkeys(['at_loss', 'cirkd_loss', 'cwd_loss', 'dist_loss',
                     'icsd_loss', 'nfd_loss', 'pairwise_loss',
                     'tfd_loss', 'value_loss'], [WEIGHT]),
    'pkd_loss': [WEIGHT, 'test_losses/test_ranks.py'
                 '::test_no_collective_unless_asked_for'],
    'kd_loss': ['test_losses/test_ka_dtd.py', WEIGHT]}
TESTS = {
    **{f'losses/{path.name}': [
        f'test_losses/test_{path.name}', 'test_losses/test_constant.py',
        *MORE.get(path.stem, [])]
       for path in sorted(ROOT.glob('mmselfkd/losses/[a-z]*.py'))},
    'losses/_maps.py': ['test_losses/test_common.py', WEIGHT],
    'checks.py': ['test_checks.py'],
    'checkpoint_files.py': ['test_checkpoint_files.py'],
    'errors.py': ['test_registry.py', 'test_taps.py'],
    'layout.py': ['test_layout.py'],
    'randomness.py': ['test_datasets/test_fixed_views.py'],
    'registry.py': ['test_registry.py'],
    'schedules.py': ['test_schedules.py'],
    'sources.py': ['test_sources.py'],
    'taps.py': ['test_taps.py'],
    'datasets/dataset_part.py': ['test_comparison/test_holdout.py'],
    'datasets/fixed_views.py': ['test_datasets/test_fixed_views.py'],
    'datasets/keep_labels.py': ['test_datasets/test_keep_labels.py'],
    'datasets/view_sampler.py': ['test_datasets/test_view_sampler.py'],
    'distillation/diagnosis.py': ['test_distillation/test_diagnosis.py'],
    'distillation/discriminators.py': [
        'test_distillation/test_discriminators.py'],
    'distillation/level_matching.py': [
        'test_distillation/test_level_matching.py', RUN],
    'distillation/auto_weight.py': ['test_distillation/test_auto_weight.py'],
    'distillation/loss_config.py': [RUN, ERRORS + 'bad_losses'],
    'distillation/loss_term.py': [
        'test_distillation/test_loss_term.py',
        RUN + '::test_a_value_that_is_no_scalar'],
    'distillation/agreement.py': ['test_distillation/test_agreement.py'],
    'distillation/inheritance.py': ['test_hooks/test_inherit.py'],
    'distillation/monitor.py': ['test_distillation/test_monitor.py'],
    'distillation/plain_loss.py': [
        'test_distillation/test_plain_loss.py',
        'test_distillation/test_own_parts.py'],
    'distillation/plan.py': [
        'test_distillation/test_plan.py', ERRORS + 'bad_hook',
        ERRORS + 'teacher_that_no_loss_looks_at',
        ERRORS + 'names_that_a_teacher_cannot_have'],
    'distillation/query_matching.py': [
        'test_distillation/test_query_matching.py'],
    'distillation/recording.py': [RUN],
    'distillation/rehearsal.py': [
        RUN, 'test_hooks/test_classifier.py',
        'test_hooks/test_loss_state.py'],
    'distillation/run.py': [RUN],
    'distillation/unlabelled.py': UNLABELLED,
    'hooks/checkpoint.py': [
        RESUME + 'changed_losses_say_what_was_kept_added_dropped',
        RESUME + 'an_adapter_of_another_shape_starts_anew',
        RESUME + 'a_new_loss_has_the_learning_rate_of_a_run_from_the_start'],
    'hooks/cleanup.py': [
        HOOK + 'host_is_untouched_after_training',
        HOOK + 'host_is_untouched_after_an_exception',
        HOOK + 'a_method_that_somebody_else_has_patched_stays'],
    'hooks/distill_hook.py': [
        ERRORS + 'bad_hook', FEATURES + 'flexible_runner_is_refused',
        HOOK + 'terms_are_logged_and_summed_into_the_loss',
        HOOK + 'schedule_counts_epochs',
        HOOK + 'validation_and_test_need_no_teacher',
        'test_distillation/test_plan.py'],
    'hooks/drawing.py': ['test_hooks/test_visualization.py'],
    'hooks/frskd_hook.py': [
        'test_hooks/test_self_distillation.py'
        '::test_frskd_on_other_levels'],
    'hooks/filling.py': ['test_tools/test_cache_teacher.py'],
    'hooks/setup.py': [
        ERRORS + 'ema_hook_in_front_of_ours',
        ERRORS + 'runner_without_config_cannot_have_adapters',
        ERRORS + 'optimizer_that_leaves_the_adapters_out',
        ERRORS + 'nothing_of_the_random_stream_is_used',
        HOOK + 'schedule_counts_epochs',
        FEATURES + 'several_optimizers', 'test_hooks/test_setup.py',
        'test_hosts/test_kinds_in_runs.py::test_transforms_with_a_memory',
        'test_hosts/test_padded_pipelines.py'],
    'hooks/unlabelled.py': UNLABELLED,
    'hooks/visualization.py': ['test_hooks/test_visualization.py'],
    'hooks/views.py': ['test_hooks/test_views.py'],
    'hosts/branches.py': ['test_hosts/test_branches.py'],
    'hosts/building.py': ['test_teachers/test_self_teacher.py'],
    'hosts/heads.py': ['test_hosts/test_own_head.py', *HOSTS],
    'hosts/host.py': [
        'test_hosts/test_own_host.py', 'test_layout.py', *HOSTS],
    'hosts/mmdet.py': ['test_hosts/test_mmdet.py'],
    'hosts/mmseg.py': ['test_hosts/test_mmseg.py',
                       'test_teachers/test_mix.py'],
    'hosts/places.py': ['test_hosts/test_places.py'],
    'hosts/regions.py': ['test_hosts/test_regions.py'],
    'hosts/tokens.py': [
        'test_hosts/test_mmseg.py::test_tokens_of_a_grid_become_a_map',
        'test_hosts/test_mmseg.py'
        '::test_where_a_transformer_says_its_patch_size',
        'test_hosts/test_tokens.py::test_class_tokens_are_no_levels'],
    'models/bifpn.py': ['test_models/test_bifpn.py'],
    'models/depth_head.py': ['test_models/test_depth_head.py'],
    'teachers/building.py': [ERRORS + 'arguments_of_teachers'],
    'teachers/cache_fingerprint.py': [
        'test_teachers/test_cache_fingerprint.py',
        CACHED + 'another_folder_where_it_differs',
        CACHED + 'the_same_folder_where_only_names_differ'],
    'teachers/cache_options.py': [CACHED + 'refuses_options'],
    'teachers/cache_packing.py': ['test_teachers/test_cache_packing.py'],
    'teachers/cache_store.py': ['test_teachers/test_cache_store.py'],
    'teachers/cached.py': [
        CACHED + 'a_segmentor_bit_for_bit', CACHED + 'where_a_part_is_there',
        CACHED + 'a_limit', CACHED + 'no_space',
        CACHED + 'a_changed_image_is_named',
        CACHED + 'refuses_what_changes',
        CACHED + 'refuses_what_depends_on_the_student'],
    'teachers/class_map.py': ['test_teachers/test_class_map.py'],
    'teachers/combined.py': ['test_teachers/test_combined.py'],
    'teachers/ema.py': [FOLLOWING],
    'teachers/execution.py': [
        'test_teachers/test_execution.py::test_untapped_parts',
        'test_teachers/test_execution.py'
        '::test_compiled_teacher_gives_the_same',
        'test_teachers/test_execution.py'
        '::test_options_that_cannot_be_had', FROZEN],
    'teachers/forward.py': ['test_teachers/test_forward.py'],
    'teachers/frozen.py': [
        FROZEN, 'test_teachers/test_class_map.py'
        '::test_names_of_the_config_and_of_old_files'],
    'teachers/inputs.py': ['test_teachers/test_inputs.py'],
    'teachers/mix.py': ['test_teachers/test_mix.py'],
    'teachers/model_teacher.py': [
        'test_teachers/test_inputs.py', FROZEN, FOLLOWING],
    'teachers/self_teacher.py': ['test_teachers/test_self_teacher.py'],
    'teachers/snapshot.py': [FOLLOWING],
    'teachers/student_as_teacher.py': ['test_hooks/test_self_distillation.py'
        '::test_tfd_costs_no_parameter_and_leaves_the_deepest_stage'],
    'teachers/teacher.py': ['test_teachers/test_self_teacher.py'],
}
# what is not mutated, and why: patterns of paths below mmselfkd/
LEFT_OUT = {
    '__init__.py': 'imports', '*/__init__.py': 'imports',
    'version.py': 'one string',
    '__main__.py': 'starts the tools',
    'comparison/*.py': 'reports on runs, beside the core',
    'datasets/toy_*.py': 'procedural images for demos and tests',
    'hooks/*_hook.py': 'presets: settings, which test_presets.py compares',
    'teachers/libraries.py': 'needs timm or transformers (make teachers)',
    'teachers/timm_teacher.py': 'needs timm (make teachers)',
    'teachers/transformers_teacher.py': 'needs transformers (make teachers)',
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
        """Test what has no result yet; returns what went wrong."""
        done = self.results()
        todo = [name for name in self.names if name not in done
                or again and done[name] in SURVIVED]
        if not todo:
            return None
        log = self.folder / 'log.txt'
        code = in_fork(lambda: run_mutmut(todo), self.folder, log)
        return f'mutmut ended with {code}; see {log}' if code else None

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
        from mutmut.mutation.diff_apply import get_diff_for_mutant

        for name in self.survivors():
            print(f'# {name}', get_diff_for_mutant(
                name, path=Path('mmselfkd') / self.module), sep='\n')


def run_mutmut(names):
    """Test mutants of the module in whose folder this is called."""
    from mutmut import __main__ as mutmut
    from mutmut.workers.isolation import ForkRunner

    # what it does beside: the run that shows which test reaches which
    # function has shown already that all tests pass
    ForkRunner.run_clean_tests = lambda self, tests: 0
    mutmut.run_forced_fail_test = lambda runner: None
    mutmut._run(names, 1)


def in_fork(work, folder, log):
    """Call ``work()`` in a process of its own; its exit code.

    What takes long to import is there already, the package itself is not.
    """
    import mmdet.datasets  # noqa: F401
    import mmdet.models  # noqa: F401
    import mmseg.datasets  # noqa: F401
    import mmseg.models  # noqa: F401
    import pytest  # noqa: F401
    import torch

    torch.set_num_threads(1)
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        os.chdir(folder)
        with log.open('w') as file:
            for stream in 1, 2:
                os.dup2(file.fileno(), stream)
        sys.modules.pop('tests', None)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main():
    os.environ['OMP_NUM_THREADS'] = '1'
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
    rows, failed = [], []
    for name in modules or TESTS:
        module = Module(name, args.sample)
        if not args.show:
            problem = module.run(args.again)
            if problem:  # the others go on
                failed.append(name)
                print(f'{name}: {problem}', flush=True)
        rows.append(module.row())
        if args.show:
            module.show()
        else:
            print(rows[-1], *module.survivors(), sep='\n  ', flush=True)
    print('\n| module | mutants | killed | survived |\n|---|---|---|---|',
          *rows, sep='\n')
    if failed:
        sys.exit(f'not run to the end: {", ".join(failed)}')


if __name__ == '__main__':
    main()
