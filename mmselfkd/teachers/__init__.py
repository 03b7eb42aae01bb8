"""Who teaches: one class per file."""
from .ema import EMATeacher
from .frozen import FrozenTeacher
from .mix import MixTeacher
from .own import OwnTeacher
from .self_teacher import SelfTeacher
from .snapshot import SnapshotTeacher

__all__ = [
    'EMATeacher', 'FrozenTeacher', 'MixTeacher', 'OwnTeacher', 'SelfTeacher',
    'SnapshotTeacher'
]
