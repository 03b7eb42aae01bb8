"""A whole model that teaches by a forward pass of its own."""
import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError
from ..hosts import InputFormat, Place, host_of
from ..hosts.places import split_queries
from ..sources import Levels
from ..taps import Tap
from .class_map import ClassMap
from .execution import Execution
from .forward import TappedForward
from .inputs import InputAdapter
from .teacher import BatchContext, Teacher, TeacherOutput


class ModelTeacher(Teacher):
    """Runs a model in eval mode, without gradient and without labels.

    The model is no submodule of the student: not in its checkpoint, its
    optimizer, its EMA copy or DDP. It is made of parts that a subclass may
    choose: the model, what it expects of its input, how it is called and how
    the pass runs. It ends at the deepest tap.

    A teacher of your own, of any ``nn.Module``, is a subclass that builds
    the model and hands it over; see ``examples/own_teacher.py``.

    Args:
        model (nn.Module, optional): None: a subclass sets it in :meth:`fit`.
        input_format (InputFormat, optional): What the model expects. None:
            as its data preprocessor says.
        channels (Sequence[int], optional): The student's input channels that
            the model sees. None: all.
        execution (Execution, optional): How the pass runs. None: plainly.
        classes (dict, optional): Which of its classes teach which of the
            student's; see :class:`~mmselfkd.teachers.ClassMap`. None: they
            have the same.
        key (str): Where this stands in the user's config, for the errors.
    """

    model: nn.Module
    is_pretrained = True  # has its weights before the run begins

    def __init__(self,
                 model: nn.Module | None = None,
                 input_format: InputFormat | None = None,
                 channels: Sequence[int] | None = None,
                 execution: Execution | None = None,
                 classes: dict | None = None,
                 key: str = 'teacher') -> None:
        super().__init__(key)
        if model is not None:
            self.model = model
        self.input_format, self.channels = input_format, channels
        self.execution = execution or Execution()
        self._class_config = classes
        self._map: Any = None  # a ClassMap, once fitted
        self._widths: dict[str, int] = {}  # channels of what it is used on
        self._requests: dict[str, str] = {}
        self._taps: dict[str, Tap] = {}

    # -- for a subclass to change ---------------------------------------------

    def calls(self) -> Sequence[Any]:
        """Ways to run the model, each ``call(inputs, samples)``.

        The first that reaches every tap is taken.
        """
        host = host_of(self.model)
        return [
            lambda inputs, samples: host.run(self.model, inputs, samples),
            lambda inputs, samples: host.run_to_predict(
                self.model, inputs, samples)
        ]

    def name(self) -> str:
        """What the model is, for the log."""
        return type(self.model).__name__

    def class_names(self) -> Sequence[str] | None:
        """Of the model's classes, for a class map; None: not known."""
        return self.classes

    # -- what a run calls -----------------------------------------------------

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def request(self, source: str, key: str, student: nn.Module) -> None:
        self._requests.setdefault(source, key)
        for name in host_of(student).regions_for(student, source):
            if name not in self.student_sources:
                self.student_sources.append(name)

    def fit(self, context: BatchContext, resources: ExitStack) -> None:
        """Tap the model, and move it to the student's device."""
        device = context.inputs.device
        self._host = host_of(self.model)
        expected = self.input_format or self._host.input_format(self.model)
        self.model.to(device).requires_grad_(False).eval()
        self._inputs = InputAdapter(
            context.host.input_format(context.student), expected,
            context.inputs, self.channels, self.key)
        self.execution.prepare(
            self.model, device,
            self.student_sources[0] if self.student_sources else None)
        self._taps = {
            source: Tap(self.model, source, key, resources)
            for source, key in self._requests.items()
        }
        if self._class_config is not None:
            self._fit_classes(context)
        self._size = tuple(context.inputs.shape[2:])
        self._context: BatchContext | None = None
        self._forward = TappedForward(self._taps, *(
            [self._run_on_regions] if self.student_sources else
            self.calls()))

    def place(self, source: str) -> Place | None:
        place = self._taps[source].place
        if not self._is_mapped(place):
            return place
        return dataclasses.replace(
            place, reading=self._map.reading(
                place.reading, self._widths[source]))

    def rehearse(self, context: BatchContext) -> TeacherOutput:
        """A first, full run, which learns which taps fire how often.

        Raises:
            ConfigError: The model takes another number of channels.
        """
        try:
            output = self._run(context, self._forward.rehearse)
        except RuntimeError as error:
            wanted = _input_channels(self.model)
            if 'channels' not in str(error) or (
                    wanted in (None, self._inputs.given)):
                raise
            raise self._inputs.other_channels(wanted) from error
        if self.execution.compile is not None:
            self._compile(context)
        return output

    def teach(self, context: BatchContext,
              sources: Iterable[str] | None) -> TeacherOutput:
        """Run as deep as the deepest of the taps asked for."""
        return self._run(context, functools.partial(self._forward, sources))

    def describe(self) -> str:
        return (f'{self.name()}, {self.num_parameters:,} parameters, not '
                f'trained{self._inputs.describe(self._size)}'
                f'{self.execution.describe()}' + (
                    '' if self._map is None else f'; {self._map.describe()}'))

    @torch.no_grad()
    def _run(self, context: BatchContext,
             run: Callable[[torch.Tensor, Any], dict[str, Levels]]
             ) -> TeacherOutput:
        size = tuple(context.inputs.shape[2:])
        with self.execution.running(context.inputs.device):
            inputs = self.execution.lay_out(
                self._inputs(context.inputs, context.layout))
            samples = context.host.without_labels(context.samples)
            self._context = context
            try:
                levels = run(inputs, samples)
            finally:
                self._context = None
            levels = {
                source: [self._for_student(level, size, source)
                         for level in found]
                for source, found in levels.items()
            }
        return TeacherOutput(levels, join=self.execution.join)

    def _for_student(self, level: torch.Tensor, size: tuple[int, ...],
                     source: str) -> torch.Tensor:
        """A level for an input of ``size`` and the student's classes."""
        place = self._taps[source].place
        if place.is_map:
            level = self._inputs.cut(level, size)
        if not self._is_mapped(place):
            return level
        if place.queries:
            scores, boxes = split_queries(level)
            self._widths[source] = scores.shape[1]
            return torch.cat([self._map(scores, place.reading), boxes], 1)
        self._widths[source] = level.shape[1]
        return self._map(level, place.reading)

    def _is_mapped(self, place: Place) -> bool:
        """Queries are matched by their class scores, also for their boxes."""
        return (self._map is not None and place.reading is not None and bool(
            place.queries or place.reading.kind == 'classes'))

    def _fit_classes(self, context: BatchContext) -> None:
        """Read the class map.

        Raises:
            ConfigError: Its names are not those of the classes, or nothing
                is mapped.
        """
        where = f'{self.key}.classes'
        self._map = ClassMap(
            self._class_config, self.class_names(), context.classes, where)
        count = self._host.num_classes(self.model) or len(self.classes or ())
        if count and count != len(self._map.theirs):
            raise ConfigError(
                f'{where}: the teacher has {len(self._map.theirs)} class '
                f'names ({", ".join(self._map.theirs[:8])}), but its head '
                f'{count} classes; say names=[...] in their order')
        self.classes = None
        if not any(self._is_mapped(tap.place) for tap in self._taps.values()):
            raise ConfigError(
                f'{where} = {self._class_config!r}: no loss looks at class '
                f'scores of this teacher, but at {list(self._taps)}; leave it '
                "out, or use a loss on source='logits'")

    def _run_on_regions(self, inputs: torch.Tensor, samples: Any) -> None:
        assert self._context is not None
        self._host.run_on_regions(
            self.model, inputs, self._context.levels, self._requests)

    def _compile(self, context: BatchContext) -> None:
        """Compile, and run once on a batch of the size of the run's."""
        order = [i % len(context.inputs) for i in range(
            context.batch_size or len(context.inputs))]
        batch = dataclasses.replace(
            context, inputs=context.inputs[order],
            samples=[context.layout.samples[i] for i in order]
            if context.layout.samples else context.samples)
        try:
            self.execution.compile_parts(self.model, [
                m for tap in self._taps.values() for m in tap.place.modules])
            self.teach(batch, None).join()
        except ConfigError:
            raise
        except Exception as error:  # of a compiler: whatever it may raise
            raise ConfigError(
                f'{self.key}.compile = {self.execution.compile!r}: '
                f'{type(error).__name__}: {error}') from error


def _input_channels(model: nn.Module) -> int | None:
    """Those of the first convolution, mostly the one on the image."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return None


def keep_finite(model: nn.Module, before: list[torch.Tensor]) -> None:
    """Put a buffer of ``model`` back where it is not finite.

    One bad batch leaves its mark in the running statistics of BN for good.
    The student trains on those of its batch; a teacher that follows it
    evaluates with them.

    Args:
        model (nn.Module): A teacher's.
        before (list[Tensor]): Its buffers as they were.
    """
    for buffer, old in zip(model.buffers(), before):
        buffer.copy_(torch.where(buffer.isfinite(), buffer, old))
