"""IFVD as a preset of DistillHook."""
from ..registry import register_hook
from .distill_hook import DistillHook


@register_hook
class IFVDHook(DistillHook):
    """Intra-class feature variation distillation of segmentors.

    - ``loss_ifv``: :class:`~mmselfkd.losses.IFVDLoss` on ``features``,
      weight 200;
    - ``loss_kd``: :class:`~mmselfkd.losses.KDLoss` on ``logits`` over every
      pixel, weight 0.53;
    - ``loss_ho``: :class:`~mmselfkd.losses.HolisticLoss` on ``logits``,
      WGAN-GP, not conditioned on the image, weight 0.001, with Adam for the
      discriminator.

    Taps and weights are those of the official code. Its 10 on the soft
    labels belongs to a mean over pixels and 19 classes: 10 / 19 = 0.53 on
    the mean over pixels. Its mean in ``loss_ifv`` counts ignored pixels as
    0, so the share of labelled pixels times 200 is its weight.

    Args:
        teacher, losses, task_schedule: See
            :class:`~mmselfkd.hooks.DistillHook`.

    Reference: Intra-class Feature Variation Distillation for Semantic
    Segmentation, ECCV 2020; YukangWang/IFVD at 950a7a5.
    """

    preset = dict(
        loss_ifv=dict(type='IFVDLoss', source='features', loss_weight=200.0),
        loss_kd=dict(
            type='KDLoss', source='logits', ignore_index=None,
            loss_weight=0.53),
        loss_ho=dict(
            type='HolisticLoss', source='logits', conditional=False,
            optimizer=dict(type='Adam', lr=4e-4, betas=(0.9, 0.99)),
            loss_weight=0.001))
    search_space = {
        'losses.loss_ifv.loss_weight': (20., 2000.),
        'losses.loss_kd.loss_weight': (0.05, 5),
        'losses.loss_kd.temperature': (0.5, 8),
        'losses.loss_ho.loss_weight': (1e-4, 1e-2)}
