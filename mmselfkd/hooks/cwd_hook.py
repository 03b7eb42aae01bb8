"""CWD as a preset of DistillHook."""
from ..registry import register_hook
from ..schedules import SHAPES
from .distill_hook import DistillHook


@register_hook
class CWDHook(DistillHook):
    """Channel-wise distillation of the class maps.

    ``loss_cwd``: :class:`~mmselfkd.losses.CWDLoss` on ``logits`` at the
    temperature 4, weight 3. Tap, temperature and weight are the paper's; its
    normaliser, the images and channels, is that of the loss.

    On features, with a 1x1 adapter on the student where the channels differ,
    the paper's weight is 50: ``losses=dict(loss_cwd=dict(source='features',
    loss_weight=50.0))``. On detectors the ports have the temperature 1: on the
    levels of the neck ``source='features'`` and the weight 10, on class heads
    the weight 5, times the number of levels, of which the loss is the mean.

    Args:
        teacher, losses, task_schedule: See
            :class:`~mmselfkd.hooks.DistillHook`.

    Reference: Channel-wise Knowledge Distillation for Dense Prediction, ICCV
    2021, arXiv 2011.13256; irfanICMLL/TorchDistiller at 78bac7c.
    """

    preset = dict(
        loss_cwd=dict(type='CWDLoss', source='logits', loss_weight=3.0))
    search_space = {
        'losses.loss_cwd.loss_weight': (0.3, 30),
        'losses.loss_cwd.temperature': (1., 16.),
        'losses.*.schedule': SHAPES}
