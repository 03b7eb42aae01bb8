"""The average of the student's own weights as its teacher."""
from contextlib import ExitStack
from typing import Any

from mmengine.model import ExponentialMovingAverage
from torch import nn

from ..checks import check_integer
from ..errors import ConfigError
from ..registry import TEACHERS
from .model_teacher import ModelTeacher, keep_finite
from .teacher import BatchContext


@TEACHERS.register_module()
class EMATeacher(ModelTeacher):
    r"""The exponential moving average of the student: a mean teacher.

    .. math::
        \theta_t \leftarrow (1 - m) \theta_t + m \theta_s

    after every ``interval``-th iteration, as in mmengine's EMAHook, whether
    or not accumulated gradients moved the student in it; buffers, such as the
    statistics of batch normalisation, are copied where they are finite. It
    starts as the student is at ``begin``, and until then the losses that look
    at it are 0.

    Args:
        momentum (float): :math:`m`, the share of the **new** weights, as in
            mmengine's EMAHook: what other projects call a decay of 0.999 is
            a momentum of 0.001. In (0, 0.5]. Defaults to 0.001.
        begin (int): Iterations before the average begins. Defaults to 0.
        interval (int): Iterations from one update to the next. Defaults to
            1.
        key (str): Where this stands in the user's config, for the errors.

    Raises:
        ConfigError: A value is out of range.

    Reference: Mean teachers are better role models, NIPS 2017, arXiv
    1703.01780.
    """

    is_pretrained = False

    def __init__(self,
                 momentum: float = 0.001,
                 begin: int = 0,
                 interval: int = 1,
                 key: str = 'teacher') -> None:
        super().__init__(key=key)
        if not isinstance(momentum, (int, float)) or not 0 < momentum <= 0.5:
            hint = ''
            if isinstance(momentum, float) and 0.5 < momentum < 1:
                hint = (f'; a decay of {momentum} is '
                        f'momentum={1 - momentum:.6g}')
            raise ConfigError(
                f'{key}.momentum = {momentum!r}: the share of the new '
                f'weights, above 0 and at most 0.5{hint}')
        check_integer(f'{key}.begin', begin, 0)
        check_integer(f'{key}.interval', interval, 1)
        self.momentum, self.begin, self.interval = momentum, begin, interval
        self.is_ready = False

    def check_length(self, iterations: int | None,
                     epochs: int | None) -> None:
        if iterations is not None and self.begin >= iterations:
            raise ConfigError(
                f'{self.key}.begin = {self.begin}: the run has {iterations} '
                'iterations, so every loss that looks at this teacher would '
                'be 0 in all of them; a smaller number is needed')

    def fit(self, context: BatchContext, resources: ExitStack) -> None:
        self._average = ExponentialMovingAverage(
            context.student, momentum=self.momentum, interval=self.interval)
        self.model = self._average.module
        super().fit(context, resources)

    def start(self, student: nn.Module) -> None:
        if self.begin == 0 and not self.is_ready:
            self._update(student)

    def follow(self, student: nn.Module, iterations: int,
               epoch_length: int) -> None:
        if iterations >= self.begin:
            self._update(student)

    def _update(self, student: nn.Module) -> None:
        before = [buffer.clone() for buffer in self.model.buffers()]
        # the first update copies the weights
        self._average.update_parameters(student)
        keep_finite(self.model, before)
        self.is_ready = True

    def state_dict(self) -> dict[str, Any]:
        return dict(
            average=self._average.state_dict(), is_ready=self.is_ready)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._average.load_state_dict(state['average'])
        self.is_ready = state['is_ready']

    def describe(self) -> str:
        return (f'moving average of the student, momentum {self.momentum:g},'
                f' from iteration {self.begin} on, every {self.interval}; '
                f'{self.num_parameters:,} parameters')
