"""CIRKD as a preset of DistillHook."""
from ..registry import register_hook
from .distill_hook import DistillHook


@register_hook
class CIRKDHook(DistillHook):
    """Cross-image relational distillation of segmentors.

    - ``loss_kd``: :class:`~mmselfkd.losses.KDLoss` on ``logits`` over every
      pixel, weight 1;
    - ``loss_minibatch``: :class:`~mmselfkd.losses.CIRKDMiniBatchLoss` on
      ``features``, weight 1;
    - ``loss_memory``: :class:`~mmselfkd.losses.CIRKDMemoryLoss` on
      ``features``, whose terms on pixels and on regions have the weight 0.1
      each.

    Taps, temperatures, sizes and weights are the paper's; its means over
    pixels and pairs are those of the losses. The queues are kept in the
    checkpoint beside the student, about 0.9 GB for Cityscapes.

    Args:
        teacher, losses, task_schedule: See
            :class:`~mmselfkd.hooks.DistillHook`.

    Reference: Cross-Image Relational Knowledge Distillation for Semantic
    Segmentation, CVPR 2022, arXiv 2204.06986; winycg/CIRKD at dab64db.
    """

    preset = dict(
        loss_kd=dict(
            type='KDLoss', source='logits', ignore_index=None,
            loss_weight=1.0),
        loss_minibatch=dict(
            type='CIRKDMiniBatchLoss', source='features', loss_weight=1.0),
        loss_memory=dict(
            type='CIRKDMemoryLoss', source='features', loss_weight=1.0))
    search_space = {
        'losses.loss_kd.loss_weight': (0.1, 10),
        'losses.loss_kd.temperature': (0.5, 8),
        'losses.loss_minibatch.loss_weight': (0.1, 10),
        'losses.loss_memory.loss_weight': (0.1, 10)}
