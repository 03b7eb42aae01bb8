"""From the config of a teacher to the teacher."""
from typing import Any

from ..errors import ConfigError
from ..registry import TEACHERS, build_part
from .teacher import Teacher


def build_teacher(cfg: Any, key: str) -> Teacher:
    """Build ``cfg``, a ``FrozenTeacher`` where it names no other type.

    Args:
        cfg (dict): ``type`` and the arguments of the class.
        key (str): Where ``cfg`` stands in the config, for the errors.

    Raises:
        ConfigError: It is no teacher, or cannot be built.
    """
    if not isinstance(cfg, dict):
        raise ConfigError(f'{key} = {cfg!r}: a dict is needed, such as '
                          'dict(config=..., checkpoint=...)')
    teacher = build_part(dict(type='FrozenTeacher') | dict(cfg), TEACHERS,
                         key, offered=dict(key=key))
    if not isinstance(teacher, Teacher):
        raise ConfigError(
            f'{key}: a {type(teacher).__name__} is no teacher; derive it '
            'from mmselfkd.teachers.ModelTeacher')
    teacher.key = key
    return teacher
