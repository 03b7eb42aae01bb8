"""Who teaches: one class per file."""
from .building import build_teacher
from .cache_options import CacheOptions
from .cached import CachedTeacher
from .class_map import ClassMap
from .combined import CombinedTeacher
from .ema import EMATeacher
from .execution import Execution
from .frozen import FrozenTeacher
from .mix import MixTeacher
from .model_teacher import ModelTeacher
from .self_teacher import SelfTeacher
from .snapshot import SnapshotTeacher
from .student_as_teacher import StudentAsTeacher
from .teacher import BatchContext, RecordedViews, Teacher, TeacherOutput
from .timm_teacher import TimmTeacher
from .transformers_teacher import TransformersTeacher

__all__ = [
    'BatchContext', 'CacheOptions', 'CachedTeacher', 'ClassMap',
    'CombinedTeacher', 'EMATeacher', 'Execution', 'FrozenTeacher',
    'MixTeacher', 'ModelTeacher', 'RecordedViews', 'SelfTeacher',
    'SnapshotTeacher', 'StudentAsTeacher', 'Teacher', 'TeacherOutput',
    'TimmTeacher', 'TransformersTeacher', 'build_teacher'
]
