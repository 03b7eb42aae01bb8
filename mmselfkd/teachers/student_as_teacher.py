"""The student's own maps, of the same forward pass, as the teacher's."""
from collections.abc import Iterable

from torch import nn

from ..registry import TEACHERS
from .teacher import BatchContext, Teacher, TeacherOutput


@TEACHERS.register_module()
class StudentAsTeacher(Teacher):
    """One place of the student teaches another, in the same forward pass.

    It costs no parameter and no pass of its own. The losses detach the
    teacher's side, so gradient flows only into the student's side.

    Args:
        key (str): Where this stands in the user's config, for the errors.
    """

    def __init__(self, key: str = 'teacher') -> None:
        super().__init__(key)

    def request(self, source: str, key: str, student: nn.Module) -> None:
        if source not in self.student_sources:
            self.student_sources.append(source)

    def teach(self, context: BatchContext,
              sources: Iterable[str] | None) -> TeacherOutput:
        return TeacherOutput({
            source: context.levels[source]
            for source in sources or self.student_sources})

    def describe(self) -> str:
        return 'the student itself, by its own forward pass'
