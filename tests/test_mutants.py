"""The map of ``make mutants``: from the modules of the core to their tests."""
from fnmatch import fnmatch

import pytest
from mutants import LEFT_OUT, TESTS, covering


@pytest.mark.parametrize('module', TESTS)
def test_module_and_tests_are_there(root, module):
    assert (root / 'mmselfkd' / module).is_file()
    assert covering(module)
    for test in covering(module):
        path, _, name = test.partition('::')
        assert f'def {name}' in (root / path).read_text()


def test_no_module_is_forgotten(root):
    """Each is mutated, or left out for a reason; no reason is left over."""
    package = root / 'mmselfkd'
    modules = {path.relative_to(package).as_posix()
               for path in package.rglob('*.py')}
    left_out = {module: [p for p in LEFT_OUT if fnmatch(module, p)]
                for module in modules - set(TESTS)}
    assert not [module for module, why in left_out.items() if not why]
    assert {p for why in left_out.values() for p in why} == set(LEFT_OUT)
