"""KA and DTD as a preset of DistillHook."""
from ..registry import register_hook
from ..schedules import SHAPES
from .distill_hook import DistillHook


@register_hook
class KADTDHook(DistillHook):
    """Knowledge Adjustment and Dynamic Temperature Distillation.

    ``loss_kd`` is :class:`~mmselfkd.losses.KDLoss` on ``logits`` where the
    teacher's wrong pixels are corrected by a probability shift (KA) and the
    temperature of a pixel falls with its difficulty (DTD, weighted as in the
    focal loss), base temperature 10 and ``beta`` 40. Both are options of the
    soft-label loss and so of every method that has one.

    Without a teacher the student's moving average is the teacher.

    Differs from the paper: it classifies images, here every valid pixel is a
    sample. The 10 and 40 are recollected from the paper, whose body could not
    be read; a third party's grid is ``beta`` from 10 to 80 at temperature 8.
    With ``beta=1`` the temperatures hardly move. ``gamma=1`` is that of a
    re-implementation.

    Args:
        teacher (dict, optional): As everywhere. Defaults to
            ``dict(type='EMATeacher')``.
        losses, task_schedule: See :class:`~mmselfkd.hooks.DistillHook`.

    Reference: Preparing Lessons: Improve Knowledge Distillation with Better
    Supervision, Neurocomputing 2021, arXiv 1911.07471.
    """

    preset = dict(
        loss_kd=dict(
            type='KDLoss',
            source='logits',
            temperature=10.0,
            adjust=dict(type='ProbabilityShift'),
            dynamic_temperature=dict(type='FLSW', beta=40.0, gamma=1.0)))
    preset_teacher = dict(type='EMATeacher')
    search_space = {
        'losses.loss_kd.loss_weight': (0.1, 10),
        'losses.loss_kd.temperature': (1., 100.),
        'losses.*.schedule': SHAPES}
