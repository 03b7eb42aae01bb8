"""FitNets as a preset of DistillHook."""
from ..registry import register_hook
from ..schedules import SHAPES
from .distill_hook import DistillHook


@register_hook
class FitNetsHook(DistillHook):
    """The student's features are those of the teacher.

    ``loss_hint``: :class:`~mmselfkd.losses.FitNetsLoss` on ``features``, the
    last map in front of the classifier, weight 1; a 1x1 adapter on the
    student where the channels differ.

    The paper's hint is a layer in the middle of a classifier and trains the
    layers below it before the rest. Tap and weight here are those of the
    segmentation benchmark in winycg/CIRKD, with the same mean.

    Args:
        teacher, losses, task_schedule: See
            :class:`~mmselfkd.hooks.DistillHook`.

    Reference: FitNets: Hints for Thin Deep Nets, ICLR 2015, arXiv 1412.6550;
    winycg/CIRKD at dab64db.
    """

    preset = dict(
        loss_hint=dict(type='FitNetsLoss', source='features', loss_weight=1.0))
    search_space = {
        'losses.loss_hint.loss_weight': (0.1, 10),
        'losses.*.schedule': SHAPES}
