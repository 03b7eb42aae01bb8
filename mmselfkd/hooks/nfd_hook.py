"""NFD as a preset of DistillHook."""
from ..registry import register_hook
from ..schedules import SHAPES
from .distill_hook import DistillHook


@register_hook
class NFDHook(DistillHook):
    """Normalized Feature Distillation.

    ``loss_nfd``: :class:`~mmselfkd.losses.NFDLoss` per image and channel
    (``dims='hw'``) on ``features``, the last map in front of the classifier;
    a 1x1 adapter on the student where the channels differ. Of several levels,
    as a detector has them, it is the mean.

    The layer, the weight and the reduction of the paper are not public; the
    weight here was chosen on CamVid (``benchmarks/``).

    Args:
        teacher, losses, task_schedule: See
            :class:`~mmselfkd.hooks.DistillHook`.

    Reference: Normalized Feature Distillation for Semantic Segmentation,
    arXiv 2207.05256.
    """

    preset = dict(
        loss_nfd=dict(type='NFDLoss', source='features', loss_weight=2.0))
    search_space = {
        'losses.loss_nfd.loss_weight': (0.2, 20),
        'losses.*.schedule': SHAPES}
