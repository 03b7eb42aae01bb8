"""From a config to a teacher."""
from typing import Any

from ..errors import ConfigError
from ..registry import TEACHERS, build_part
from .cached import CachedTeacher
from .teacher import Teacher


def build_teacher(cfg: Any, key: str) -> Teacher:
    """Build ``cfg``, a ``FrozenTeacher`` where it names no other type.

    Args:
        cfg (dict): ``type`` and the arguments of the class, and ``cache``
            where its answers are to be kept.
        key (str): Where ``cfg`` stands in the config, for the errors.

    Raises:
        ConfigError: It is no teacher, or cannot be built.
    """
    if not isinstance(cfg, dict):
        raise ConfigError(f'{key} = {cfg!r}: a dict is needed, such as '
                          'dict(config=..., checkpoint=...)')
    cfg = dict(type='FrozenTeacher') | dict(cfg)
    cache = cfg.pop('cache', None)
    if cache is not None:
        return CachedTeacher(cfg, cache, key)
    teacher = build_part(cfg, TEACHERS, key, ('cache', ), dict(key=key))
    if not isinstance(teacher, Teacher):
        raise ConfigError(
            f'{key}: a {type(teacher).__name__} is no teacher; derive it '
            'from mmselfkd.teachers.ModelTeacher')
    if not hasattr(teacher, 'student_sources'):
        raise ConfigError(f'{key}: {type(teacher).__name__}.__init__ does not '
                          'call super().__init__()')
    teacher.key = key
    return teacher
