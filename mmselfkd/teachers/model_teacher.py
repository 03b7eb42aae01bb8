"""A whole model that teaches by a forward pass of its own."""
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..heads import rois_for
from ..taps import Tap
from .teacher import Lesson, Step, Teacher


class _Enough(Exception):
    """Every tap has what it wants: the rest of the forward is not needed."""


class ModelTeacher(Teacher):
    """Runs ``model`` in eval mode, without gradient and without labels.

    The model is no submodule of the student: not in its checkpoint, its
    optimizer, its EMA copy or DDP. It runs ``mode='tensor'``, or, for a source
    in an RoI head, that head on the student's RoIs, and stops at the deepest
    tap. A subclass sets :attr:`model`, at the latest in
    :meth:`fit`.
    """

    model: nn.Module

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.taps: dict[str, Tap] = {}
        self._requests: dict[str, str] = {}

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def request(self, source: str, key: str, student: nn.Module) -> None:
        self._requests.setdefault(source, key)
        for name in rois_for(student, source):
            if name not in self.student_sources:
                self.student_sources.append(name)

    def fit(self, step: Step) -> None:
        """Tap the model, and move it to the student's device."""
        self.model.to(step.inputs.device)
        self.model.requires_grad_(False).eval()
        for source, key in self._requests.items():
            self.taps[source] = Tap(self.model, source, key)
            self.taps[source].on_run = self._stop_when_enough

    def rehearse(self, step: Step) -> Lesson:
        """A first, full run: learn which taps fire how often.

        Taps whose tensors are changed in place afterwards (a ReLU) start to
        keep a copy.
        """
        self._forward(step, self.taps)
        for tap in self.taps.values():
            tap.expected_runs = len(tap.runs)
        lesson = Lesson({s: tap.take() for s, tap in self.taps.items()})
        for tap in self.taps.values():
            tap.clone = tap.changed
        return lesson

    def teach(self, step: Step, sources: Iterable[str] | None) -> Lesson:
        """Run as deep as the deepest of the taps asked for."""
        taps = {s: self.taps[s] for s in sources or self.taps}
        self._forward(step, taps)
        return Lesson({source: tap.take() for source, tap in taps.items()})

    def remove(self) -> None:
        for tap in self.taps.values():
            tap.remove()
        self.taps = {}

    def inputs_of(self, step: Step) -> torch.Tensor:
        """The batch as this model wants it."""
        return step.inputs

    @torch.no_grad()
    def _forward(self, step: Step, taps: dict[str, Tap]) -> None:
        samples: Any = step.samples
        if samples is not None:  # no ground truth
            samples = [type(s)(metainfo=s.metainfo) for s in samples]
        inputs = self.inputs_of(step)
        for tap in taps.values():
            tap.open()
        try:
            if self.student_sources:
                self._run_on_rois(inputs, step)
            else:
                self.model(inputs, samples, mode='tensor')
        except _Enough:
            pass
        finally:
            for tap in taps.values():
                tap.close()

    def _run_on_rois(self, inputs: torch.Tensor, step: Step) -> None:
        """A two-stage detector on the RoIs of the student.

        Its own proposals would be others: what it says of them could not be
        compared.
        """
        levels = self.model.extract_feat(inputs)
        head = self.model.roi_head
        if any(source.startswith('rpn_head') for source in self.taps):
            self.model.rpn_head(levels)
        for name, run in (('rois', head._bbox_forward),
                          ('mask_rois', getattr(head, '_mask_forward', None))):
            is_cascade = isinstance(head.bbox_head, nn.ModuleList)
            for stage, rois in enumerate(step.seen.get(name, ())):
                run(*(stage, ) if is_cascade else (), levels, rois)

    def _keep_finite(self, before: list[torch.Tensor]) -> None:
        """Put a buffer back where that of the student is not finite.

        One bad batch leaves its mark in the running statistics of BN for
        good. The student trains on those of its batch; this model does not.

        Args:
            before (list[Tensor]): The buffers as they were.
        """
        for buffer, old in zip(self.model.buffers(), before):
            buffer.copy_(torch.where(buffer.isfinite(), buffer, old))

    def _stop_when_enough(self) -> None:
        if all(tap.is_satisfied for tap in self.taps.values()
               if tap.is_open):
            raise _Enough
