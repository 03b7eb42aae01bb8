"""CrossKD as a preset of DistillHook."""
from ..registry import register_hook
from ..schedules import SHAPES
from .distill_hook import DistillHook


@register_hook
class CrossKDHook(DistillHook):
    """The teacher's head judges the features of the student's.

    ``loss_crosskd``: :class:`~mmselfkd.losses.CrossKDLoss` on
    ``branches.-1``, the features in front of the last convolution of the
    class and of the box branch, weight 1 for the class term and 4 (GFL) or 1
    (other heads) for the box term. These are the split and the weights of the
    official code for heads of four convolutions, and its normalisers. Another
    split is another source: ``losses=dict(loss_crosskd=dict(
    source='branches.2'))``.

    Args:
        teacher, losses, task_schedule: See
            :class:`~mmselfkd.hooks.DistillHook`. Student and teacher have one
            of the heads GFL, RetinaNet, FCOS and ATSS, with sigmoid scores.

    Reference: CrossKD: Cross-Head Knowledge Distillation for Object
    Detection, CVPR 2024, arXiv 2306.11369; jbwang1997/CrossKD at 87e156a.
    """

    preset = dict(
        loss_crosskd=dict(
            type='CrossKDLoss', source='branches.-1', loss_weight=1.0))
    search_space = {
        'losses.loss_crosskd.loss_weight': (0.1, 10),
        'losses.*.schedule': SHAPES}
