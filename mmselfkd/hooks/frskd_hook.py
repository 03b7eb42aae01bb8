"""FRSKD as a preset of DistillHook."""
import copy
from typing import Any

from ..registry import register_hook
from ..schedules import SHAPES
from .distill_hook import DistillHook

_RAMP = dict(type='ExponentialRamp', begin=2 / 3)


@register_hook
class FRSKDHook(DistillHook):
    r"""Feature Refinement via Self-Knowledge Distillation; no teacher needed.

    .. math::
        L = L_{task}(z_s, y) + L_{task}(z_t, y) + \alpha L_{KD} + \beta L_F

    A :class:`~mmselfkd.teachers.SelfTeacher` (BiFPN and a head of its own)
    refines the student's levels: the stages of the backbone, or in a detector
    the levels of its neck. It learns the task. Its input is not detached, so
    its task loss trains the student too. The saved student does not contain
    it.

    - ``loss_at``: :class:`~mmselfkd.losses.ATLoss` between the student's
      levels and the refined ones, a mean over the levels, weight 25 / 6;
    - ``loss_kd``: :class:`~mmselfkd.losses.KDLoss` between the logits,
      temperature 1, weight 1.

    The teacher's side of both is detached. Both are 0 for the first two
    thirds of the run and then grow by an
    :class:`~mmselfkd.schedules.ExponentialRamp`, as in the official
    segmentation code, where the learning rate drops after 40 of 60 epochs.

    ``teacher=dict(type='SelfTeacher', source='neck')`` refines the neck's
    levels instead, and ``loss_at`` compares these. In a detector with two
    stages ``loss_kd`` needs another source, or ``losses=dict(loss_kd=None)``,
    because student and self-teacher have different RoIs.

    Differs from the official code: there ``loss_at`` is a mean over the
    positions and a sum over the levels, weight 50, so its size depends on
    the pyramid. The weight here gives the largest total of the official
    settings, 25 / 3, on any pyramid and crop (the arithmetic:
    :func:`~mmselfkd.losses.at_loss`). There the coarsest level has three
    quarters of it, here each level has the same share. Logits are compared
    at the student's own resolution, not enlarged to the image; the
    self-teacher of a student with another neck than the paper's is BiFPNc,
    with a head over all levels.

    Args:
        teacher (dict, optional): Another teacher, or this one with options:
            ``dict(type='SelfTeacher', source='neck')``. Defaults to
            ``dict(type='SelfTeacher')``.
        losses, task_schedule: See :class:`~mmselfkd.hooks.DistillHook`.

    Reference: Refine Myself by Teaching Myself: Feature Refinement via
    Self-Knowledge Distillation, CVPR 2021, arXiv 2103.08273; MingiJi/FRSKD
    at 98b87e5.
    """

    preset = dict(
        loss_at=dict(
            type='ATLoss',
            source=dict(student='pyramid', teacher='neck'),
            reduction='sum',
            level_reduction='mean',
            loss_weight=25 / 6,
            schedule=_RAMP),
        loss_kd=dict(
            type='KDLoss', source='logits', ignore_index=None,
            loss_weight=1.0, schedule=_RAMP))
    preset_teacher = dict(type='SelfTeacher')
    search_space = {
        'losses.loss_at.loss_weight': (0.4, 40),
        'losses.loss_kd.loss_weight': (0.1, 10),
        'losses.loss_kd.temperature': (0.5, 8),
        'losses.*.schedule': dict(constant=None, **SHAPES)}

    def __init__(self, teacher: Any = None, **kwargs: Any) -> None:
        if isinstance(teacher, dict) and 'source' in teacher:
            self.preset = copy.deepcopy(self.preset)
            self.preset['loss_at']['source']['student'] = teacher['source']
        super().__init__(teacher, **kwargs)
