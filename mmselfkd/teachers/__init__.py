"""Who teaches: one class per file."""
from .building import build_teacher
from .cached import CachedTeacher, CacheOptions
from .ema import EMATeacher
from .execution import Execution
from .frozen import FrozenTeacher
from .mix import MixTeacher
from .model_teacher import ModelTeacher
from .self_teacher import SelfTeacher
from .snapshot import SnapshotTeacher
from .student_as_teacher import StudentAsTeacher
from .teacher import BatchContext, RecordedViews, Teacher, TeacherOutput

__all__ = [
    'BatchContext', 'CacheOptions', 'CachedTeacher', 'EMATeacher',
    'Execution', 'FrozenTeacher', 'MixTeacher', 'ModelTeacher',
    'RecordedViews', 'SelfTeacher', 'SnapshotTeacher', 'StudentAsTeacher',
    'Teacher', 'TeacherOutput', 'build_teacher'
]
