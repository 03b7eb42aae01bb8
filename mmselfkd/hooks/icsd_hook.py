"""ICSD as a preset of DistillHook."""
from ..registry import register_hook
from ..schedules import SHAPES
from .distill_hook import DistillHook


@register_hook
class ICSDHook(DistillHook):
    """Inter-Class Similarity Distillation.

    ``loss_icsd``: :class:`~mmselfkd.losses.ICSDLoss` on ``logits``, added to
    the task loss.

    The weight was chosen on CamVid (``benchmarks/``). The official code
    computes another quantity (:func:`~mmselfkd.losses.icsd_loss`) and names
    no weight of it: the 9500 of its README belongs to ``--pa_lambda``, a
    pair-wise term on features in the code that was read.

    Args:
        teacher, losses, task_schedule: See
            :class:`~mmselfkd.hooks.DistillHook`.

    Reference: AICSD: Adaptive Inter-Class Similarity Distillation for
    Semantic Segmentation, Multimedia Tools and Applications 2025, arXiv
    2308.04243; AmirMansurian/AICSD at f99949e.
    """

    preset = dict(
        loss_icsd=dict(type='ICSDLoss', source='logits', loss_weight=0.01))
    search_space = {
        'losses.loss_icsd.loss_weight': (0.001, 0.1),
        'losses.loss_icsd.temperature': (0.5, 8),
        'losses.*.schedule': SHAPES}
