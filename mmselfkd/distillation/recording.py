"""What is recorded of a forward pass, and what goes with it."""
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn

from ..hosts import host_of
from ..hosts.branches import POSITIVES
from ..sources import STUDENT, Levels, Source
from ..taps import Tap, reach
from ..teachers import BatchContext, Teacher, TeacherOutput
from .loss_config import LossConfig
from .loss_term import LossTerm


def tap_student(model: nn.Module, configs: Iterable[LossConfig],
                teachers: dict[str, Teacher],
                resources: ExitStack) -> dict[str, Tap]:
    """A tap for whatever losses and teachers look at, by the source."""
    wanted = [(path, f'{config.key}.source') for config in configs
              for owner, path in config.sources if owner == STUDENT]
    wanted += [(path, f'{teacher.key}.source')
               for teacher in teachers.values()
               for path in teacher.student_sources]
    taps: dict[str, Tap] = {}
    for path, key in wanted:
        if path not in taps:
            taps[path] = Tap(model, path, key, resources)
    return taps


def student_paths(config: LossConfig,
                  teachers: dict[str, Teacher]) -> list[str]:
    """The student's sources that a loss looks at, by itself or a teacher."""
    return [path for owner, name in config.student_sources
            for path in ([name] if owner == STUDENT else
                         teachers[owner].student_sources)]


def total_loss(losses: dict[str, Any]) -> torch.Tensor:
    """The sum of a model's losses, as mmengine makes it."""
    parts = [
        part.mean() for name, value in losses.items() if 'loss' in name
        for part in (value if isinstance(value, (list, tuple)) else [value])]
    return torch.stack(parts).sum()


def record(taps: dict[str, Tap], sources: Iterable[str],
           run: Callable[[], Any]) -> None:
    """Call ``run`` with the taps of ``sources`` open."""
    for source in sources:
        taps[source].open()
    try:
        run()
    finally:
        for source in sources:
            taps[source].close()


def run_tapped(model: nn.Module, taps: dict[str, Tap],
               sources: Iterable[str], inputs: torch.Tensor,
               samples: Any) -> dict[str, Levels]:
    """The levels of a student for other inputs, with gradient.

    A model that cannot run ``mode='tensor'`` to its end takes the way of
    inference.
    """
    host, sources = host_of(model), list(sources)
    samples = host.without_labels(samples)
    reach([taps[source] for source in sources], [
        partial(call, model, inputs, samples)
        for call in (host.run, host.run_to_predict)])
    return {source: taps[source].take(inputs.shape) for source in sources}


def all_levels(context: BatchContext, outputs: dict[str, TeacherOutput]
               ) -> dict[Source, Levels]:
    """The levels of student and teachers by their source."""
    levels = {Source(STUDENT, path): found
              for path, found in context.levels.items()}
    for name, output in outputs.items():
        for path, found in output.levels.items():
            levels[Source(name, path)] = found
    return levels


def positives_of(levels: dict[Source, Levels]) -> torch.Tensor | None:
    """By which the student's own class loss is divided, where recorded."""
    found = levels.get(Source(STUDENT, POSITIVES))
    return found[0] if found else None


def label_for(term: LossTerm, context: BatchContext,
              outputs: dict[str, TeacherOutput]) -> torch.Tensor | None:
    """The class maps that go with the levels of ``term``, if it asks."""
    if not term.loss.needs_label or not term.matcher.is_map:
        return None
    for owner in term.config.teachers:
        label = outputs[owner].label
        if label is not None:
            return label
    return context.layout.label(term.matcher.place.class_map)
