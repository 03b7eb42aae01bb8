"""The map of ``make mutants``: from the modules of the core to their tests."""
import pytest
from mutants import TESTS, covering


@pytest.mark.parametrize('module', TESTS)
def test_module_and_tests_are_there(root, module):
    assert (root / 'mmselfkd' / module).is_file()
    assert covering(module)
    for test in covering(module):
        path, _, name = test.partition('::')
        assert f'def {name}' in (root / path).read_text()
