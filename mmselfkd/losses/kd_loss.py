"""Soft labels of the teacher, pixel by pixel."""
from typing import Optional

import torch.nn.functional as F
from torch import Tensor, nn

from ._common import (autocast_off, check_integer_or_none, check_maps,
                      check_positive, full_precision, resize_label)


def kd_loss(student: Tensor,
            teacher: Tensor,
            label: Optional[Tensor] = None,
            temperature: float = 1.0,
            ignore_index: Optional[int] = 255) -> Tensor:
    r"""Kullback-Leibler divergence of the class scores at every pixel.

    .. math::
        L = \frac{T^2}{|V|} \sum_{p \in V} \sum_{k=1}^{K}
            q^t_{p,k} (\log q^t_{p,k} - \log q^s_{p,k}), \quad
        q_p = \mathrm{softmax}_k(z_p / T)

    :math:`z_p` (K) are the logits of pixel :math:`p`, :math:`q_p` (K) its
    class probabilities, :math:`V` the set of valid pixels of the batch and
    :math:`T` the temperature.

    A valid pixel is one whose label is not ``ignore_index``. Without labels,
    or with ``ignore_index=None``, all pixels are valid, so that images
    without annotation still distil. With no valid pixel at all the loss is
    exactly 0 and so is its gradient.

    Differs from the paper: the paper has one score vector per image; here
    every pixel is such a sample. Its second term, the cross entropy with the
    label, is the task loss of the student and not part of this function.

    Differs from the official code: structured knowledge distillation, which
    brought this term to segmentation, has the cross entropy instead of the
    divergence (same gradient), T = 1, all pixels valid, and divides by H * W
    only. Its weight times N is the weight of this loss.

    Args:
        student (Tensor): logits of the student.
        teacher (Tensor): logits of the teacher; detached here.
        label (Tensor, optional): integer class labels, of any size; resized
            to the logits by nearest neighbour. Defaults to None.
        temperature (float): divides both logits. Defaults to 1.0.
        ignore_index (int, optional): label of the pixels that take no part.
            None: every pixel takes part. Defaults to 255.

    Shape:
        - student, teacher: (N, K, H, W).
        - label: (N, H0, W0) or (N, 1, H0, W0).

    Returns:
        Tensor: scalar, the mean over the valid pixels of the batch (a sum
        over the classes).

    Raises:
        TypeError: if the maps are not floating point or the labels are not
            integers.
        ValueError: if shapes do not agree or an argument is out of range.

    Reference:
        Distilling the Knowledge in a Neural Network, NIPS 2014 workshop,
        arXiv:1503.02531 (no official code). In segmentation: Structured
        Knowledge Distillation for Semantic Segmentation, CVPR 2019,
        arXiv:1903.04197, irfanICMLL/structure_knowledge_distillation
        (ce208e1).

    Example:
        >>> import torch
        >>> student = torch.zeros(1, 2, 1, 2)
        >>> teacher = torch.tensor([0.75, 0.25]).log().view(1, 2, 1, 1)
        >>> teacher = teacher.expand(1, 2, 1, 2)
        >>> label = torch.tensor([[[0, 255]]])
        >>> round(kd_loss(student, teacher, label).item(), 4)
        0.1308
    """
    check_maps(student, teacher)
    check_positive('temperature', temperature)
    check_integer_or_none('ignore_index', ignore_index)
    with autocast_off(student):
        student, teacher = full_precision(student, teacher)
        student = F.log_softmax(student / temperature, dim=1)
        teacher = F.log_softmax(teacher / temperature, dim=1)
        divergence = (teacher.exp() * (teacher - student)).sum(dim=1)
        loss = temperature**2 * divergence
        if label is None or ignore_index is None:
            return loss.mean()
        valid = resize_label(label, student) != ignore_index
        return loss.masked_fill(~valid, 0).sum() / valid.sum().clamp(min=1)


class KDLoss(nn.Module):
    """Soft labels of the teacher at every pixel: :func:`kd_loss`.

    Args:
        temperature (float): divides both logits. Defaults to 1.0.
        ignore_index (int, optional): label of the pixels that take no part.
            None: every pixel takes part. Defaults to 255.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch
        >>> logits = torch.rand(2, 19, 8, 16)
        >>> KDLoss(temperature=2.0)(logits, logits).item()
        0.0
    """
    channels = 'classes'
    needs_label = True

    def __init__(self,
                 temperature: float = 1.0,
                 ignore_index: Optional[int] = 255):
        super().__init__()
        check_positive('temperature', temperature)
        check_integer_or_none('ignore_index', ignore_index)
        self.temperature = temperature
        self.ignore_index = ignore_index

    def forward(self,
                student: Tensor,
                teacher: Tensor,
                label: Optional[Tensor] = None) -> Tensor:
        """See :func:`kd_loss`."""
        return kd_loss(student, teacher, label, self.temperature,
                       self.ignore_index)
