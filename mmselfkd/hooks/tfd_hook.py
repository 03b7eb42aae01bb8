"""TFD as a preset of DistillHook."""
from ..registry import register_hook
from ..schedules import SHAPES
from .distill_hook import DistillHook

_RAMP = dict(type='LinearRamp', end=1 / 12)


@register_hook
class TFDHook(DistillHook):
    """Teacher-free Feature Distillation; no teacher needed.

    - ``loss_inter``: :class:`~mmselfkd.losses.TFDInterLoss`, every deeper
      stage of ``backbone`` teaches every shallower one, a mean over the
      pairs, weight 0.005;
    - ``loss_intra``: :class:`~mmselfkd.losses.TFDIntraLoss`, in each stage
      the salient half of the channels teaches the redundant half, a mean
      over the stages, weight 0.0004.

    Both grow linearly over the first twelfth of the run (20 of 240 epochs)
    and cost neither a parameter nor a forward pass. The weights are the
    published ones and, as means, belong to any number of stages.

    ``losses=dict(loss_intra=None)`` is TFD, IJCNN 2022, by which only deep
    features teach shallow ones.

    Args:
        teacher (dict, optional): Defaults to the student itself,
            ``dict(type='StudentAsTeacher')``.
        losses, task_schedule: See :class:`~mmselfkd.hooks.DistillHook`.

    Reference: Teacher-free Distillation via Regularizing Intermediate
    Representation, IJCNN 2022, doi 10.1109/IJCNN55064.2022.9892575;
    Self-Regulated Feature Learning via Teacher-free Feature Distillation,
    ECCV 2022, doi 10.1007/978-3-031-19809-0_20;
    lilujunai/Teacher-free-Distillation at 3427f98.
    """

    preset = dict(
        loss_inter=dict(
            type='TFDInterLoss', source='backbone', loss_weight=0.005,
            schedule=_RAMP),
        loss_intra=dict(
            type='TFDIntraLoss', source='backbone', loss_weight=0.0004,
            schedule=_RAMP))
    preset_teacher = dict(type='StudentAsTeacher')
    search_space = {
        'losses.loss_inter.loss_weight': (5e-4, 5e-2),
        'losses.loss_intra.loss_weight': (4e-5, 4e-3),
        'losses.*.schedule': dict(constant=None, **SHAPES)}
