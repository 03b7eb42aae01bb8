"""What those are told who lack an optional library."""
import sys

import pytest

from mmselfkd import ConfigError
from mmselfkd.teachers import TimmTeacher, TransformersTeacher
from mmselfkd.teachers.libraries import import_library


@pytest.mark.parametrize('name, cls', [
    ('timm', TimmTeacher), ('transformers', TransformersTeacher)])
def test_what_to_install(monkeypatch, name, cls):
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not there
    with pytest.raises(ConfigError) as error:
        cls('model', key='NFDHook.teacher')
    for part in ('NFDHook.teacher.type', f'{name} is not installed',
                 f"pip install 'mmselfkd[{name}]'"):
        assert part in str(error.value)


def test_a_library_that_fails(monkeypatch, tmp_path):
    (tmp_path / 'broken_library.py').write_text(
        'raise RuntimeError("operator nms does not exist")')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match='operator nms.*torchvision'):
        import_library('broken_library', 'teacher')
