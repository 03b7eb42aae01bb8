"""SRD as a preset of DistillHook."""
from ..registry import register_hook
from ..schedules import SHAPES
from .distill_hook import DistillHook


@register_hook
class SRDHook(DistillHook):
    """The teacher's classifier judges the features of both.

    ``loss_srd``: :class:`~mmselfkd.losses.SRDLoss` on ``features``, what
    enters the classifier, with the weight 1 for both of its terms. These are
    the taps and weights of the official code, whose means are those of the
    loss with a position in the place of an image. It has no soft labels
    beside it.

    Args:
        teacher, losses, task_schedule: See
            :class:`~mmselfkd.hooks.DistillHook`. The teacher is a segmentor
            whose head has one layer as its classifier.

    Reference: Knowledge Distillation Meets Open-Set Semi-Supervised
    Learning, arXiv 2205.06701; jingyang2017/SRD_ossl at d295cd8.
    """

    preset = dict(
        loss_srd=dict(type='SRDLoss', source='features', loss_weight=1.0))
    search_space = {
        'losses.loss_srd.loss_weight': (0.1, 10),
        'losses.*.schedule': SHAPES}
