"""The student's own maps, of the same forward pass, as the teacher's."""
from collections.abc import Iterable

from torch import nn

from ..registry import TEACHERS
from .teacher import Lesson, Step, Teacher


@TEACHERS.register_module()
class OwnTeacher(Teacher):
    """Nobody else: one place of the student teaches another, for nothing.

    The losses detach what teaches, so gradient flows only into what learns.

    Args:
        key (str): Where this stands in the user's config, for the errors.
    """

    def __init__(self, key: str = 'teacher') -> None:
        super().__init__(key)

    def request(self, source: str, key: str, student: nn.Module) -> None:
        if source not in self.student_sources:
            self.student_sources.append(source)

    def teach(self, step: Step, sources: Iterable[str] | None) -> Lesson:
        return Lesson({s: step.seen[s]
                       for s in sources or self.student_sources})

    def describe(self) -> str:
        return 'the student itself, by its own forward pass'
