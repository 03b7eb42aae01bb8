"""LD as a preset of DistillHook."""
from ..registry import register_hook
from ..schedules import SHAPES
from .distill_hook import DistillHook


@register_hook
class LDHook(DistillHook):
    """Localisation distillation of GFL and its kin.

    ``loss_ld``: :class:`~mmselfkd.losses.LDLoss` on ``boxes``, the
    distributions of the box sides, at the temperature 10, weight 2; the
    student's ``logits`` weigh the main region. The weight of the official
    code, 0.25 on a sum over positions and a mean over 17 bins, is 2 for 136
    positions in the main region of a batch.

    The paper's soft labels and hints beside it are other losses:
    ``losses=dict(loss_kd=dict(type='KDLoss', source='logits',
    ignore_index=None, foreground=0.5))``.

    Args:
        teacher, losses, task_schedule: See
            :class:`~mmselfkd.hooks.DistillHook`. Student and teacher have
            heads whose boxes are distributions, such as GFLHead, with
            equally many bins.

    Reference: Localization Distillation for Dense Object Detection, CVPR
    2022, arXiv 2102.12252; HikariTJU/LD.
    """

    preset = dict(
        loss_ld=dict(
            type='LDLoss', loss_weight=2.0, source=dict(
                student=['boxes', 'logits'], teacher='boxes')))
    search_space = {
        'losses.loss_ld.loss_weight': (0.2, 20),
        'losses.loss_ld.temperature': (1., 100.),
        'losses.*.schedule': SHAPES}
