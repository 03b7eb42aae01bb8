"""The docs say what is there, and what is there is documented."""
import ast
import importlib
import inspect
import re

from methods import catalogue

from benchmarks.saturation import pages
from mmselfkd import hooks, losses, schedules


def test_every_promise_has_its_tests(root):
    text = (root / 'docs' / 'reliability.md').read_text()
    named = re.findall(r'`(?:([\w/]+)\.py)?(?:::)?(test_\w+)?`', text)
    files = {path.stem: path.read_text()
             for path in (root / 'tests').rglob('test_*.py')}
    paths = {str(path.relative_to(root / 'tests').with_suffix(''))
             for path in (root / 'tests').rglob('*.py')}
    count = 0
    for file, test in named:
        if file and not file.startswith('tools/'):
            assert file in paths or f'test_hooks/{file}' in paths, file
        if test:
            count += 1
            inside = [files[file.split('/')[-1]]] if file else files.values()
            assert any(f'def {test}(' in one for one in inside), test
    assert count > 50


def test_public_methods_are_documented():
    """Their own docstring, or that of the method which they override."""
    missing = []
    for name in ('hooks', 'hosts', 'losses', 'schedules', 'teachers'):
        module = importlib.import_module(f'mmselfkd.{name}')
        for cls in vars(module).values():
            if inspect.isclass(cls) and cls.__name__ in module.__all__:
                missing += [
                    f'{cls.__name__}.{method}'
                    for method, value in vars(cls).items()
                    if inspect.isfunction(value) and method[0] != '_'
                    and value.__name__ == method  # no default of a field
                    and not inspect.getdoc(getattr(cls, method))]
    assert not missing


def test_tables_hold_every_method_and_loss(root):
    """Of the README (by tools/methods.py) and of the guide on losses."""
    assert f'\n\n{catalogue()}\n\n' in (root / 'README.md').read_text()
    methods = set(re.findall(
        r'^\| \[?`(\w+Hook)`', (root / 'README.md').read_text(), re.M))
    assert methods == {name for name in hooks.__all__ if issubclass(
        getattr(hooks, name), hooks.DistillHook)}
    guide = (root / 'docs' / 'guides' / 'losses.md').read_text()
    compared = re.findall(r'^\| `(.*?)` \|', guide, re.M)
    classes = {name for name in losses.__all__ if name.endswith('Loss')}
    assert set('`, `'.join(compared).split('`, `')) >= classes - {
        'AdversarialLoss', 'DistillationLoss'}


def test_defaults_are_the_documented_ones():
    """What a docstring says an argument defaults to; 'Default to' of two."""
    said, wrong = 0, []
    for module in (losses, schedules):
        for name in module.__all__:
            part = getattr(module, name)
            text = ' '.join(inspect.getdoc(part).split())
            for argument, value in re.findall(
                    r'(\w+) \([^()]*\): (?:(?!\w+ \([^()]*\): ).)*?'
                    r"Defaults to ([\w.'-]+?)\.(?= |$)", text):
                default = inspect.signature(part).parameters[argument].default
                said += 1
                if ast.literal_eval(value) != default:
                    wrong.append(f'{name}.{argument}: {value}, {default!r}')
    assert not wrong and said > 140


def test_pages_have_the_results_of_the_runs():
    for path, text in pages.pages().items():
        assert path.read_text() == text, (
            f'{path}: run python -m benchmarks.saturation.pages')
