"""The tests that docs/reliability.md names are there."""
import re


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
