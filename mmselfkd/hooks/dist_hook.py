"""DIST as a preset of DistillHook."""
from ..registry import register_hook
from ..schedules import SHAPES
from .distill_hook import DistillHook


@register_hook
class DISTHook(DistillHook):
    """Correlations of the class scores with those of a stronger teacher.

    ``loss_dist``: :class:`~mmselfkd.losses.DISTLoss` on ``logits``, weight
    1, with both of its terms weighted by 1 at the temperature 1: the paper's
    for segmentation, whose means are those of the loss.

    Differs from the official code: that one also compares the logits of the
    auxiliary heads, with the weight 0.4.

    Args:
        teacher, losses, task_schedule: See
            :class:`~mmselfkd.hooks.DistillHook`.

    Reference: Knowledge Distillation from A Stronger Teacher, NeurIPS 2022,
    arXiv 2205.10536; hunto/DIST_KD at 2418f18.
    """

    preset = dict(
        loss_dist=dict(type='DISTLoss', source='logits', loss_weight=1.0))
    search_space = {
        'losses.loss_dist.loss_weight': (0.1, 10),
        'losses.loss_dist.temperature': (0.5, 8),
        'losses.*.schedule': SHAPES}
