"""MixSKD as a preset of DistillHook."""
from ..registry import register_hook
from .distill_hook import DistillHook

_FEATURES = dict(
    student='teacher:interpolated.features', teacher='mixed.features')


@register_hook
class MixSKDHook(DistillHook):
    r"""Self-Knowledge Distillation from Mixup; no teacher needed.

    .. math::
        L = L_{task} + L_{own} + L_{fea} + L_{dis} + L_b + L_f

    The student sees the images and mixes of them. What
    :class:`~mmselfkd.teachers.MixTeacher` gives for a mixed image (marked by
    a tilde) and the same mix of what it gives for the plain images (marked
    by a dash) teach each other:

    - ``loss_fea``: :class:`~mmselfkd.losses.MixSKDFeatureLoss`, features of
      all stages, mutual;
    - ``loss_dis``: :class:`~mmselfkd.losses.MixSKDAdversarialLoss`, a
      discriminator for each stage, which the features learn to deceive;
    - ``loss_b``: :class:`~mmselfkd.losses.MixSKDLogitLoss`, logits of the
      branches, mutual;
    - ``loss_f``: :class:`~mmselfkd.losses.KDLoss`, the self-teacher of the
      mixed features teaches the interpolated logits of the student, and the
      other way round.

    All weights are 1 and the temperature is 3, as published; ``loss_f`` is a
    mean of its two parts, so it has the weight 2. :math:`L_{own}` trains
    branches and self-teacher by the labels; see the teacher.

    Differs from the paper: it classifies images. Here logits are those of
    pixels; every stage is brought to the shape of the last features by one
    convolution, not by a copy of the stages behind it; and the task loss of
    mixed images has two label maps.

    Differs from the official code: plain and mixed images are two batches,
    so each is normalised by its own statistics; the discriminators are
    trained, and against the features.

    Args:
        teacher (dict, optional): This one with options, such as
            ``dict(type='MixTeacher', alpha=0.4)``. Defaults to
            ``dict(type='MixTeacher')``.
        losses, task_schedule: See :class:`~mmselfkd.hooks.DistillHook`.

    Reference: MixSKD: Self-Knowledge Distillation from Mixup for Image
    Recognition, ECCV 2022, arXiv 2208.05768; winycg/Self-KD-Lib at ede3062.
    """

    preset = dict(
        loss_fea=dict(type='MixSKDFeatureLoss', source=_FEATURES),
        loss_dis=dict(type='MixSKDAdversarialLoss', source=_FEATURES),
        loss_b=dict(
            type='MixSKDLogitLoss',
            source=dict(
                student='teacher:interpolated.branches',
                teacher='mixed.branches')),
        loss_f=dict(
            type='KDLoss',
            source=dict(
                student=['teacher:interpolated.logits',
                         'teacher:mixed.logits'],
                teacher=['mixed.aggregated', 'interpolated.aggregated']),
            temperature=3.0,
            loss_weight=2.0))
    preset_teacher = dict(type='MixTeacher')
    search_space = {
        'losses.loss_fea.loss_weight': (0.1, 10),
        'losses.loss_dis.loss_weight': (0.1, 10),
        'losses.loss_b.loss_weight': (0.1, 10),
        'losses.loss_f.loss_weight': (0.2, 20)}
