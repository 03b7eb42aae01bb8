"""Inter-class similarity distillation."""
from typing import Optional

import torch.nn.functional as F
from torch import Tensor, nn

from ._common import (autocast_off, check_maps, check_positive,
                      full_precision)


def icsd_loss(student: Tensor,
              teacher: Tensor,
              temperature: float = 1.0) -> Tensor:
    r"""Squared difference of the divergences between the class maps.

    .. math::
        L = \frac{1}{N K^2} \sum_{n=1}^{N} \sum_{i,j=1}^{K}
            (D^s_{n,ij} - D^t_{n,ij})^2, \quad
        D_{n,ij} = \sum_{m=1}^{HW} p_{n,i,m}
                   (\log p_{n,i,m} - \log p_{n,j,m})

    :math:`p_{n,i}` (H * W) is the softmax of class map :math:`i` of image
    :math:`n`, divided by the temperature, over its positions :math:`m`, and
    :math:`D_n` (K, K) the matrix of divergences KL(p_i || p_j). A constant
    added to a class map has no effect. Cost: one matrix product of
    (K, H * W) and (H * W, K) per image and model, in float64, because the
    differences between two matrices are small beside their entries.

    Differs from the paper: the text that was at hand leaves the order of the
    divergence, the temperature and one matrix per image or per batch open;
    they are chosen as above. The adaptive weighting (AICSD) belongs to the
    schedule of the run, not to this function.

    Differs from the official code: that one takes the softmax over H only
    (per column), feeds probabilities where log-probabilities belong, mirrors
    the upper triangle of an asymmetric matrix, averages over the batch
    before comparing, normalises the rows and fixes K to 21. Its weight of
    9500 belongs to that scale.

    Args:
        student (Tensor): logits of the student.
        teacher (Tensor): logits of the teacher; detached here.
        temperature (float): divides both logits. Defaults to 1.0.

    Shape:
        - student, teacher: (N, K, H, W).

    Returns:
        Tensor: scalar, the mean over the images and over the K * K ordered
        class pairs.

    Raises:
        TypeError: if the maps are not floating point.
        ValueError: if shapes do not agree or an argument is out of range.

    Reference:
        AICSD: Adaptive Inter-Class Similarity Distillation for Semantic
        Segmentation, Multimedia Tools and Applications 2025,
        arXiv:2308.04243, AmirMansourian/AICSD (f99949e).

    Example:
        >>> import torch
        >>> student = torch.zeros(1, 2, 1, 2)
        >>> teacher = torch.tensor([[.5, .5], [.75, .25]]).log()
        >>> teacher = teacher.view(1, 2, 1, 2)
        >>> round(icsd_loss(student, teacher).item(), 6)
        0.009451
    """
    check_maps(student, teacher)
    check_positive('temperature', temperature)
    with autocast_off(student):
        student, teacher = full_precision(student, teacher)
        difference = (_divergences(student, temperature)
                      - _divergences(teacher, temperature))
        return difference.square().mean().to(student.dtype)


def _divergences(logits, temperature):
    """KL(p_i || p_j) of all class maps (N, K, K)."""
    log_p = F.log_softmax(logits.double().flatten(2) / temperature, dim=2)
    cross = log_p.exp() @ log_p.transpose(1, 2)
    return cross.diagonal(dim1=1, dim2=2)[:, :, None] - cross


class ICSDLoss(nn.Module):
    """Divergences between the class maps: :func:`icsd_loss`.

    Args:
        temperature (float): divides both logits. Defaults to 1.0.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch
        >>> logits = torch.rand(2, 19, 8, 16)
        >>> ICSDLoss()(logits, logits + 1).item() < 1e-6
        True
    """
    channels = 'classes'

    def __init__(self, temperature: float = 1.0):
        super().__init__()
        check_positive('temperature', temperature)
        self.temperature = temperature

    def forward(self,
                student: Tensor,
                teacher: Tensor,
                label: Optional[Tensor] = None) -> Tensor:
        """See :func:`icsd_loss`; the label is not used."""
        return icsd_loss(student, teacher, self.temperature)
