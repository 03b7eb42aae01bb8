"""PKD as a preset of DistillHook."""
from ..registry import register_hook
from ..schedules import SHAPES
from .distill_hook import DistillHook


@register_hook
class PKDHook(DistillHook):
    """Pearson's correlation of the features of detectors.

    ``loss_pkd``: :class:`~mmselfkd.losses.PKDLoss` on ``features``, all
    levels of the neck, summed, weight 10; a 1x1 adapter on the student where
    the channels differ, which the paper does without.

    The weight is that of the official code for one-stage detectors, whose
    normaliser is that of the loss; for two-stage detectors it has 6:
    ``losses=dict(loss_pkd=dict(loss_weight=6.0))``. The code looks at four
    levels.

    Args:
        teacher, losses, task_schedule: See
            :class:`~mmselfkd.hooks.DistillHook`.

    Reference: PKD: General Distillation Framework for Object Detectors via
    Pearson Correlation Coefficient, NeurIPS 2022, arXiv 2207.02039;
    open-mmlab/mmrazor.
    """

    preset = dict(
        loss_pkd=dict(type='PKDLoss', source='features', loss_weight=10.0))
    search_space = {
        'losses.loss_pkd.loss_weight': (1., 100.),
        'losses.*.schedule': SHAPES}
