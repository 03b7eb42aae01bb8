"""Who teaches: one class per file."""
from .frozen import FrozenTeacher

__all__ = ['FrozenTeacher']
