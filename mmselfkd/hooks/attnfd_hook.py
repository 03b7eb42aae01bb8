"""AttnFD as a preset of DistillHook."""
from ..registry import register_hook
from ..schedules import SHAPES
from .distill_hook import DistillHook


@register_hook
class AttnFDHook(DistillHook):
    """Attention-guided feature distillation of segmentors.

    ``loss_attnfd``: :class:`~mmselfkd.losses.AttnFDLoss` on ``backbone[-1]``
    and ``features``, weight 0.33 on each.

    The taps are the official ones, but for the output of the ASPP module,
    which heads without one do not have: with DeepLabV3+
    ``losses=dict(loss_attnfd=dict(source=['backbone[-1]',
    'decode_head.bottleneck', 'features']))``. The official weight of 2
    belongs to a norm over a batch of 6 images, so it is 2 / 6 on the mean
    over the images.

    Args:
        teacher, losses, task_schedule: See
            :class:`~mmselfkd.hooks.DistillHook`.

    Reference: Attention-guided Feature Distillation for Semantic
    Segmentation, arXiv 2403.05451; AmirMansurian/AttnFD at f090bbe.
    """

    preset = dict(
        loss_attnfd=dict(
            type='AttnFDLoss', source=['backbone[-1]', 'features'],
            loss_weight=0.33))
    search_space = {
        'losses.loss_attnfd.loss_weight': (0.03, 3),
        'losses.*.schedule': SHAPES}
