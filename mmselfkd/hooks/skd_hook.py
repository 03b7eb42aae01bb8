"""Structured knowledge distillation as a preset of DistillHook."""
from ..registry import register_hook
from .distill_hook import DistillHook


@register_hook
class SKDHook(DistillHook):
    """Structured Knowledge Distillation: pixel-wise, pair-wise, holistic.

    - ``loss_pi``: :class:`~mmselfkd.losses.KDLoss` on ``logits`` over every
      pixel, weight 10;
    - ``loss_pa``: :class:`~mmselfkd.losses.PairwiseLoss` on ``features``,
      fully connected over 2x2 average-pooled patches, weight 10;
    - ``loss_ho``: :class:`~mmselfkd.losses.HolisticLoss` on ``logits``,
      WGAN-GP, conditioned on the image, weight 0.1.

    Each is switched off by ``losses=dict(loss_ho=None)``. The weights are
    the paper's lambda_1 = 10 and lambda_2 = 0.1.

    Differs from the official code: there the pixel-wise sum is not divided
    by the batch size (its 10 is 10 N here), the pair-wise weight is 0.5 on a
    3x3 graph of max-pooled quarters, and the discriminator does not see the
    image (``losses=dict(loss_ho=dict(conditional=False))`` gives that).

    Args:
        teacher, losses, task_schedule: See
            :class:`~mmselfkd.hooks.DistillHook`.

    Reference: Structured Knowledge Distillation for Dense Prediction, TPAMI
    2020, arXiv 1903.04197; irfanICMLL/structure_knowledge_distillation at
    ce208e1.
    """

    preset = dict(
        loss_pi=dict(
            type='KDLoss', source='logits', ignore_index=None,
            loss_weight=10.0),
        loss_pa=dict(type='PairwiseLoss', source='features', loss_weight=10.0),
        loss_ho=dict(type='HolisticLoss', source='logits', loss_weight=0.1))
    search_space = {
        'losses.loss_pi.loss_weight': (1., 100.),
        'losses.loss_pi.temperature': (0.5, 8),
        'losses.loss_pa.loss_weight': (1., 100.),
        'losses.loss_ho.loss_weight': (0.01, 1)}
