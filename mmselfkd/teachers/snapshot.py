"""An earlier state of the student as its teacher."""
import copy
from contextlib import ExitStack
from typing import Any

from torch import nn

from ..checks import check_bool, check_integer
from ..errors import ConfigError
from ..registry import TEACHERS
from .model_teacher import ModelTeacher, keep_finite
from .teacher import BatchContext


@TEACHERS.register_module()
class SnapshotTeacher(ModelTeacher):
    """The student as it was at the last of regular times.

    Until the first of them the losses that look at it are 0.

    Args:
        interval (int): Time from one snapshot of the student to the next.
        by_epoch (bool): Whether that is counted in epochs and not in
            iterations. Defaults to False.
        key (str): Where this stands in the user's config, for the errors.

    Raises:
        ValueError: A value is out of range.

    Reference: with one snapshot, Revisiting Knowledge Distillation via
    Label Smoothing Regularization, CVPR 2020, arXiv 1909.11723; with
    several, Snapshot Distillation, CVPR 2019, arXiv 1812.00123.
    """

    is_pretrained = False

    def __init__(self,
                 interval: int,
                 by_epoch: bool = False,
                 key: str = 'teacher') -> None:
        super().__init__(key=key)
        check_integer(f'{key}.interval', interval, 1)
        check_bool(f'{key}.by_epoch', by_epoch)
        self.interval, self.by_epoch = interval, by_epoch
        self.is_ready = False

    def check_length(self, iterations: int | None,
                     epochs: int | None) -> None:
        length = epochs if self.by_epoch else iterations
        if length is not None and self.interval >= length:
            unit = 'epochs' if self.by_epoch else 'iterations'
            raise ConfigError(
                f'{self.key}.interval = {self.interval}: the run has {length} '
                f'{unit}, so every loss that looks at this teacher would be 0 '
                'in all of them; a smaller number is needed')

    def fit(self, context: BatchContext, resources: ExitStack) -> None:
        self.model = copy.deepcopy(context.student)
        super().fit(context, resources)

    def follow(self, student: nn.Module, iterations: int,
               epoch_length: int) -> None:
        length = self.interval * (epoch_length if self.by_epoch else 1)
        if iterations % length == 0:
            before = [buffer.clone() for buffer in self.model.buffers()]
            state = student.state_dict()
            self.model.load_state_dict(
                {name: state[name] for name in self.model.state_dict()})
            keep_finite(self.model, before)
            self.is_ready = True

    def state_dict(self) -> dict[str, Any]:
        return dict(model=self.model.state_dict(), is_ready=self.is_ready)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state['model'])
        self.is_ready = state['is_ready']

    def describe(self) -> str:
        unit = 'epochs' if self.by_epoch else 'iterations'
        return (f'snapshot of the student every {self.interval} {unit}, '
                f'{self.num_parameters:,} parameters')
