"""MGD as a preset of DistillHook."""
from ..registry import register_hook
from .distill_hook import DistillHook


@register_hook
class MGDHook(DistillHook):
    """Masked generative distillation of segmentors.

    - ``loss_mgd``: :class:`~mmselfkd.losses.MGDLoss` on ``backbone[-1]``,
      the last stage, of which three quarters are masked, weight 168; a 1x1
      adapter on the student where the channels differ;
    - ``loss_cwd``: :class:`~mmselfkd.losses.CWDLoss` on ``logits`` at the
      temperature 4, weight 3.

    Taps, ratio and weights are those of the official code, whose 2e-5
    belongs to the sum over an image: 2e-5 * 2048 * 64 * 64 = 168 for the
    mean over the last stage of its teacher, a ResNet-101 at 512 x 512.
    ``losses=dict(loss_mgd=dict(reduction='sum', loss_weight=2e-5))`` is its
    form, whose size goes with the map.

    On detectors the official code has all levels of the neck, masked by 0.65,
    and no class maps: ``losses=dict(loss_mgd=dict(source='features',
    mask_ratio=0.65, reduction='sum', loss_weight=1e-4), loss_cwd=None)``,
    2e-5 on each of five levels; for two-stage ones that is 5e-7 and the ratio
    0.45.

    Args:
        teacher, losses, task_schedule: See
            :class:`~mmselfkd.hooks.DistillHook`.

    Reference: Masked Generative Distillation, ECCV 2022, arXiv 2205.01529;
    yzd-v/MGD at 2c9da0b.
    """

    preset = dict(
        loss_mgd=dict(
            type='MGDLoss', source='backbone[-1]', loss_weight=168.0),
        loss_cwd=dict(type='CWDLoss', source='logits', loss_weight=3.0))
    search_space = {
        'losses.loss_mgd.loss_weight': (17., 1700.),
        'losses.loss_cwd.loss_weight': (0.3, 30),
        'losses.loss_cwd.temperature': (1., 16.)}
