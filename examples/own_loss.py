"""Losses of your own: one with parameters, and one of four lines.

``python examples/own_loss.py`` distils with both on toy data. In your project
keep the classes in a module of yours, say ``own_loss.py``. Your config imports
it and names them::

    custom_imports = dict(imports=['own_loss'])
    custom_hooks = [
        dict(
            type='mmselfkd.DistillHook',
            teacher=dict(config='teacher.py', checkpoint='teacher.pth'),
            losses=dict(
                loss_vid=dict(
                    type='VIDLoss', source='features', loss_weight=0.1),
                loss_cosh=dict(type='LogCoshLoss', source='backbone[3]')))
    ]
"""
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmselfkd.losses import DistillationLoss


@MODELS.register_module()
class VIDLoss(DistillationLoss):
    r"""Variational information distillation, with a variance it learns.

    .. math::
        L = \frac{1}{NCHW} \sum_{n,c,h,w} \Big(
            \frac{(T_{nchw} - S_{nchw})^2}{2 \sigma_c^2}
            + \frac{1}{2} \log \sigma_c^2 \Big), \quad
        \sigma_c^2 = \log(1 + e^{\rho_c}) + \epsilon

    The student :math:`S` predicts the teacher's features :math:`T` (N, C, H,
    W); :math:`\rho` (C) says how well each channel can be predicted and is
    trained along. Variational Information Distillation for Knowledge
    Transfer, CVPR 2019.

    Args:
        start (float): The variance at the start.
        eps (float): The least variance.
    """
    # 'adapt': where the student has other channels than the teacher, the run
    # puts a 1x1 convolution behind the student's map and trains it along.
    channels = 'adapt'
    # forward gets a weight (N, 1, H, W): 0 in the padding. It is what
    # `foreground=0.5` in the config of a detector needs.
    takes_weight = True

    def __init__(self, start: float = 5.0, eps: float = 1e-5) -> None:
        super().__init__()
        self.start, self.eps = start, eps

    def build(self, student: Tensor, teacher: Tensor,
              image: Tensor | None) -> None:
        # Called once for each level, with real maps. What is made here is
        # trained along and saved under `mmselfkd`, not in the student.
        rho = torch.tensor(self.start - self.eps).expm1().log()
        self.rho = nn.Parameter(rho.repeat(teacher.shape[1]))

    def forward(self, student: Tensor, teacher: Tensor, *,
                weight: Tensor | None = None) -> Tensor:
        variance = (F.softplus(self.rho) + self.eps)[:, None, None]
        error = (teacher.detach().float() - student.float()).square()
        value = error / (2 * variance) + variance.log() / 2
        if weight is None:
            return value.mean()
        value = value.mean(1, keepdim=True)
        return (value * weight).sum() / weight.sum().clamp(min=1e-12)


@MODELS.register_module()
class LogCoshLoss(nn.Module):
    """Any module with ``forward(student, teacher)`` will do."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return torch.log(torch.cosh(student - teacher.detach())).mean()


if __name__ == '__main__':
    from toy_run import UNTRAINED, train

    train('work_dirs/own_loss', dict(
        type='mmselfkd.DistillHook',
        teacher=UNTRAINED,
        losses=dict(
            loss_vid=dict(
                type='VIDLoss', source='features', loss_weight=0.1),
            loss_cosh=dict(type='LogCoshLoss', source='backbone[3]'))))
