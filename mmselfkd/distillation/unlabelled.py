"""The losses on a second batch, of images without labels."""
from collections.abc import Iterable

import torch
from torch import nn

from ..sources import STUDENT, Levels, Source, gather
from ..taps import Tap
from ..teachers import BatchContext, Teacher, TeacherOutput
from .level_matching import Pairs
from .loss_term import LossTerm
from .recording import all_levels, run_tapped

Found = dict[Source, Levels]


def why_labelled_only(term: LossTerm,
                      teachers: dict[str, Teacher]) -> str | None:
    """Why a loss takes the labelled batch alone; None: it takes both."""
    if term.loss.needs_label:
        off = [f'{name}=None' for name in ('ignore_index', 'adjust')
               if getattr(term.loss, name, None) is not None]
        return 'needs labels' if type(term.loss).needs_label or not off else (
            f'needs labels (with {" and ".join(off)} it uses every pixel)')
    if (term.loss.needs_objects or term.loss.needs_regions
            or term.loss.needs_positives):
        return 'needs boxes'
    if term.config.foreground is not None:
        return 'needs boxes for `foreground`'
    if not term.matcher.is_map:
        return 'looks at regions or queries, which depend on labels'
    for name in term.config.teachers:
        if teachers[name].module is not None:
            return (f'looks at {name}, a teacher with a loss of its own, '
                    'which needs labels')
    return None


def run_unlabelled(terms: Iterable[LossTerm], teachers: dict[str, Teacher],
                   taps: dict[str, Tap], student: nn.Module,
                   context: BatchContext) -> Found:
    """The levels of teachers and student that ``terms`` compare.

    The student makes a second forward pass, to the deepest tap, in its own
    mode: BN normalises this batch by its own statistics, and the running
    ones take it in after the labelled batch.
    """
    wanted: dict[str, set[str]] = {}
    for term in terms:
        for owner, path in term.config.sources:
            wanted.setdefault(owner, set()).add(path)
    ours = wanted.pop(STUDENT, set())
    for name in wanted:
        ours.update(teachers[name].student_sources)
    outputs: dict[str, TeacherOutput] = {}
    # the teachers first: a lower peak of memory
    for name in sorted(wanted, key=lambda n: bool(
            teachers[n].student_sources)):
        if teachers[name].student_sources and not context.levels:
            context.levels = run_tapped(
                student, taps, sorted(ours), context.inputs, context.samples)
        outputs[name] = teachers[name].teach(context, wanted[name])
    if not context.levels:
        context.levels = run_tapped(
            student, taps, sorted(ours), context.inputs, context.samples)
    for output in outputs.values():
        output.join()
    return all_levels(context, outputs)


def unlabelled_value(term: LossTerm, context: BatchContext,
                     found: Found) -> tuple[torch.Tensor, Pairs]:
    """The unweighted loss and its matched levels."""
    pairs = term.matcher(
        gather(term.config.student_sources, found),
        gather(term.config.teacher_sources, found), context.layout)
    return term.value(pairs, None, context.inputs, context.layout), pairs
