"""Weights that the student starts with, of a pretrained teacher."""
from mmengine.logging import MMLogger
from torch import nn

from ..errors import ConfigError, nearest
from ..teachers import ModelTeacher, Teacher


class Inheritance:
    """The weights of one module that teacher and student have in common.

    Args:
        student (nn.Module): Who takes them.
        name (str): Of the teacher.
        teacher (Teacher): Who has them.
        module (str): The path of the module, the same in both.
        key (str): Where it stands in the config.

    Attributes:
        taken (list[str]): Names of the weights of equal name and shape.
        left (list[str]): Names of the student's others in the module.

    Raises:
        ConfigError: One of them has no such module, nothing agrees, or the
            teacher is no pretrained model.
    """

    def __init__(self, student: nn.Module, name: str, teacher: Teacher,
                 module: str, key: str) -> None:
        where = f'{key} = {module!r}'
        if not isinstance(teacher, ModelTeacher) or (
                not teacher.is_pretrained):
            raise ConfigError(f'{where}: a pretrained teacher (config=..., '
                              'checkpoint=...) is needed to inherit from')
        for side, model in (('student', student), ('teacher', teacher.model)):
            modules = dict(model.named_modules())
            if module not in modules:
                raise ConfigError(f'{where}: the {side} has no such module' +
                                  nearest(module, modules))
        own, state = student.state_dict(), teacher.model.state_dict()
        names = [one for one in own if one.startswith(f'{module}.')]
        self.name, self.teacher = name, teacher
        self.taken = [one for one in names
                      if one in state and state[one].shape == own[one].shape]
        self.left = [one for one in names if one not in self.taken]
        if not any(own[one].dim() for one in self.taken):  # no mere counters
            raise ConfigError(f'{where}: no weight has the same name and '
                              'shape in student and teacher')

    def copy_to(self, student: nn.Module) -> None:
        """The student has its start: these weights are the teacher's."""
        own, state = student.state_dict(), self.teacher.model.state_dict()
        for name in self.taken:
            own[name].copy_(state[name])
        MMLogger.get_current_instance().info(
            f'inherited from {self.name}: {len(self.taken)} weights '
            f'({", ".join(self.taken[:3])}, ...); {len(self.left)} of another '
            'shape or name keep their own start')
