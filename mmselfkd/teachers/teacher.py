"""What every teacher is to a run."""
import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError
from ..hosts import Host, Place, host_of
from ..layout import BatchLayout
from ..sources import Levels


@dataclass
class RecordedViews:
    """What a run's batches are made of, where its samples come again.

    Attributes:
        dataset (FixedViews): Of the training loader.
        config (dict | None): Of ``dataset``; None where it was built by hand.
        autocast (Callable): What the student's forward pass runs under.
    """
    dataset: Any
    config: Any
    autocast: Callable[[], AbstractContextManager] = nullcontext


@dataclass
class BatchContext:
    """What a teacher may look at in one iteration.

    Attributes:
        student (nn.Module): The unwrapped student.
        inputs (Tensor): Its preprocessed batch (N, C, H, W).
        samples (list | None): The data samples of the batch.
        levels (dict[str, list[Tensor]]): The student's levels by source.
        run_student (Callable): ``run_student(inputs, sources)`` runs the
            student on other inputs and gives the levels of ``sources``.
        iteration (int): Iterations done so far.
        seed (int): Of the run.
        batch_size (int | None): Images of a full batch, where one is known.
        recorded (RecordedViews | None): Where the samples come again.
        classes (Sequence[str] | None): Names of the student's classes, where
            the data set says them.
        is_labelled (bool): False: the batch is one of the images without
            labels.
    """
    student: nn.Module
    inputs: torch.Tensor
    samples: Any
    levels: dict[str, Levels] = field(default_factory=dict)
    run_student: Callable[[torch.Tensor, Iterable[str]],
                          dict[str, Levels]] | None = None
    iteration: int = 0
    seed: int = 0
    batch_size: int | None = None
    recorded: RecordedViews | None = None
    classes: Sequence[str] | None = None
    is_labelled: bool = True

    @cached_property
    def host(self) -> Host:
        """What knows the student's head and data samples."""
        return host_of(self.student)

    @cached_property
    def layout(self) -> BatchLayout:
        """What of the batch is image, and what is an object."""
        return BatchLayout(self.inputs, self.samples, self.host,
                           self.host.ignore_index(self.student), self.student)


@dataclass
class TeacherOutput:
    """What a teacher gives in one iteration.

    Attributes:
        levels (dict[str, list[Tensor]]): The levels by source.
        losses (dict[str, Tensor]): What trains the teacher itself.
        label (Tensor | None): The class maps (N, H, W) that go with the
            levels, where they are not those of the batch.
        join (Callable): Must be called before anything of it is read; until
            then a side stream may still be working on it.
    """
    levels: dict[str, Levels]
    losses: dict[str, torch.Tensor] = field(default_factory=dict)
    label: torch.Tensor | None = None
    join: Callable[[], None] = lambda: None


class Teacher(ABC):
    """What a run calls, in this order.

    ``request`` for every source, ``fit`` and ``rehearse`` before training;
    ``start`` when the student has its weights; in each iteration ``teach``
    and, after the optimizer's step, ``follow``.

    Attributes:
        key (str): Where the teacher stands in the config, for the errors.
        student_sources (list[str]): What it looks at in the student.
        module (nn.Module | None): What is trained along with the student;
            the run puts it into the student, the optimizer and DDP, and
            keeps it out of the saved student.
        is_ready (bool): Whether it teaches yet; until then the losses that
            look at it are 0.
        classes (tuple | None): What it was trained on, where known and not
            mapped to the student's classes.
    """

    module: nn.Module | None = None
    is_ready = True
    classes: tuple | None = None

    def __init__(self, key: str = 'teacher') -> None:
        self.key = key
        self.student_sources: list[str] = []

    @abstractmethod
    def request(self, source: str, key: str, student: nn.Module) -> None:
        """A loss, at ``key`` of the config, looks at ``source``."""

    def check_length(self, iterations: int | None,  # noqa: B027  optional
                     epochs: int | None) -> None:
        """Refuse to begin after the end of the run, where that is known.

        Raises:
            ConfigError: The losses that look at this teacher would be 0 in
                the whole run.
        """

    def fit(self, context: BatchContext,  # noqa: B027  optional
            resources: ExitStack) -> None:
        """Fit to the student, as one rehearsed batch shows it.

        What is attached to a model registers its removal in ``resources``.
        """

    def place(self, source: str) -> Place | None:
        """Where ``source`` looks; None where nothing is known of it."""
        return None

    def rehearse(self, context: BatchContext) -> TeacherOutput:
        """A first output, which leaves no trace.

        Raises:
            ConfigError: A parameter of ``module`` gets no gradient, on which
                DDP would wait in vain.
        """
        if self.module is None:
            return self.teach(context, None)
        before = copy.deepcopy(self.module.state_dict())
        with torch.enable_grad():
            output = self.teach(context, None)
            torch.stack(list(output.losses.values())).sum().backward()
        idle = [name for name, p in self.module.named_parameters()
                if p.requires_grad and p.grad is None]
        self.module.zero_grad(set_to_none=True)
        # DDQ-DETR gives its decoder a second name of a module as it runs
        self.module.load_state_dict(before, strict=False)
        if idle:
            raise ConfigError(
                f'{self.key}: the own losses of the teacher do not reach '
                f'{len(idle)} of its parameters ({", ".join(idle[:3])}, ...);'
                ' let its head use all levels, or its neck end with the way '
                "down, such as teacher=dict(type='SelfTeacher', "
                "neck=dict(type='BiFPN', last='top_down'))")
        return output

    def start(self, student: nn.Module) -> None:  # noqa: B027  optional
        """The student has its weights, training begins."""

    @abstractmethod
    def teach(self, context: BatchContext,
              sources: Iterable[str] | None) -> TeacherOutput:
        """The output of this iteration; ``sources=None`` means all."""

    def follow(self, student: nn.Module,  # noqa: B027  optional
               iterations: int, epoch_length: int) -> None:
        """The student has made a step, ``iterations`` in all."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beyond ``module``."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """The inverse of :meth:`state_dict`, before :meth:`start`."""

    @abstractmethod
    def describe(self) -> str:
        """One line for the log at the start."""
