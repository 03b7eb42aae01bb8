"""FGD as a preset of DistillHook."""
from ..registry import register_hook
from ..schedules import SHAPES
from .distill_hook import DistillHook


@register_hook
class FGDHook(DistillHook):
    """Focal and global distillation of detectors.

    ``loss_fgd``: :class:`~mmselfkd.losses.FGDLoss` on ``features``, all
    levels of the neck, summed; a 1x1 adapter on the student where the
    channels differ. Its four weights are those of the official code for
    one-stage detectors, whose sums are those of the loss, so the weight of
    the whole is 1. For FCOS the code has 1.6 times these, at the temperature
    0.8, for RepPoints the same at 0.5, for two-stage detectors a twentieth,
    with a tenth for the context:
    ``losses=dict(loss_fgd=dict(alpha=5e-5, beta=2.5e-5, gamma=5e-5,
    lambda_=5e-7))``.

    Args:
        teacher, losses, task_schedule: See
            :class:`~mmselfkd.hooks.DistillHook`. The data must have boxes.

    Reference: Focal and Global Knowledge Distillation for Detectors, CVPR
    2022, arXiv 2111.11837; yzd-v/FGD.
    """

    preset = dict(
        loss_fgd=dict(type='FGDLoss', source='features', loss_weight=1.0))
    search_space = {
        'losses.loss_fgd.loss_weight': (0.1, 10),
        'losses.loss_fgd.temperature': (0.1, 2),
        'losses.*.schedule': SHAPES}
