"""Intra-class feature variation: how a pixel differs from its class."""
import torch
from torch import Tensor

from ..checks import check_integer_or_none
from ._maps import (
    autocast_off,
    check_maps,
    full_precision,
    mean_over,
    normalise_weight,
    resize_label,
    unit_length,
)
from .base import DistillationLoss
from .kd_loss import check_ignore_index


def ifvd_loss(student: Tensor,
              teacher: Tensor,
              *,
              label: Tensor,
              weight: Tensor | None = None,
              num_classes: int | None = None,
              ignore_index: int | None = 255,
              sync_ranks: bool = False) -> Tensor:
    r"""Squared difference of the similarities of pixels to their class.

    .. math::
        L = \frac{1}{|V|} \sum_{(n,p) \in V} (M^s_{n,p} - M^t_{n,p})^2, \quad
        M_{n,p} = \cos(F_{n,p}, \mu_{n,y_{n,p}}), \quad
        \mu_{n,k} = \frac{1}{|\{q: y_{n,q} = k\}|}
            \sum_{q: y_{n,q} = k} F_{n,q}

    :math:`F_{n,p}` (C) is the feature of pixel :math:`p` of image :math:`n`,
    :math:`y_{n,p}` its class, :math:`\mu_{n,k}` (C) the mean feature of
    class :math:`k` in image :math:`n` and :math:`V` the pixels of the batch
    that have a class. The means have a gradient too. Only similarities are
    compared, so the two maps may differ in channels.

    Cost: two products of (C, H W) and (H W, K) per image and model, in
    float64, because the difference of two similarities is small beside them.

    Masks: a pixel whose label is ``ignore_index`` or no class takes part in
    no mean and has no value. Padding likewise, and ``foreground`` weighs the
    mean over the pixels, by ``weight``; the mean features of the classes
    count each pixel that weighs more than 0 once.

    Differs from the paper: in nothing that is known.

    Differs from the official code: its mean is over all pixels, where those
    without a class are 0; this value times the share of pixels with one is
    its.

    Args:
        student (Tensor): features of the student.
        teacher (Tensor): features of the teacher; detached here.
        label (Tensor): integer class labels, of any size; resized to the
            maps by nearest neighbour.
        weight (Tensor, optional): of the positions, 0 or more; what weighs
            0, such as padding, takes no part. None: all weigh the same.
            Defaults to None.
        num_classes (int, optional): labels from this one on are no class.
            None: the largest label there is decides, for which a GPU has to
            be waited for. Defaults to None.
        ignore_index (int, optional): label of the pixels that take no part.
            None: every class takes part. Defaults to 255.
        sync_ranks (bool): whether the mean is over the pixels of all ranks,
            each of which makes this call then. Defaults to False.

    Shape:
        - student: (N, C_s, H, W).
        - teacher: (N, C_t, H, W).
        - label: (N, H0, W0) or (N, 1, H0, W0).
        - weight: (N, 1, H, W).

    Returns:
        Tensor: scalar, the mean over the pixels that have a class, from 0 to
        4.

    Raises:
        TypeError: if the maps are not floating point or the labels are not
            integers.
        ValueError: if shapes do not agree or an argument is out of range.

    Reference:
        Intra-class Feature Variation Distillation for Semantic Segmentation,
        ECCV 2020, YukangWang/IFVD (950a7a5).

    Example:
        >>> import torch
        >>> student = torch.tensor([[1., 0.], [0., 1.]]).view(1, 2, 1, 2)
        >>> label = torch.zeros(1, 1, 2, dtype=torch.long)
        >>> loss = ifvd_loss(student, torch.ones(1, 3, 1, 2), label=label)
        >>> round(loss.item(), 4)
        0.0858
    """
    check_maps(student, teacher, same_channels=False)
    check_integer_or_none('num_classes', num_classes, minimum=1)
    check_integer_or_none('ignore_index', ignore_index)
    with autocast_off(student):
        student, teacher = full_precision(student, teacher)
        label = resize_label(label, student)
        valid = label >= 0
        if ignore_index is not None:
            valid = valid & (label != ignore_index)
        if weight is not None:
            normalise_weight(weight, student)  # checks the shape
            valid = valid & (weight[:, 0] > 0)
        if num_classes is None:
            num_classes = max(0, int(label.where(valid, -1).max())) + 1
        valid = (valid & (label < num_classes)).flatten(1)
        label = label.flatten(1).where(valid, 0)
        classes = torch.arange(num_classes, device=label.device)
        of_class = ((label[..., None] == classes)
                    & valid[..., None]).double()
        loss = (_similarity(student, of_class, label)
                - _similarity(teacher, of_class, label)).to(student).square()
        valid = valid.view(len(student), 1, *student.shape[2:])
        return mean_over(
            loss.view_as(valid), valid if weight is None else valid * weight,
            sync_ranks)


def _similarity(maps, of_class, label):
    """Of each pixel to the mean of its class (N, 1, P)."""
    maps = maps.flatten(2).double()
    # the sum has the direction of the mean
    means = unit_length(maps @ of_class)
    along = (means.transpose(1, 2) @ maps).gather(1, label[:, None])
    norm = maps.norm(dim=1, keepdim=True)
    return along / norm.where(norm > 1e-12, 1)


class IFVDLoss(DistillationLoss):
    """How the pixels differ from their class: :func:`ifvd_loss`.

    Args:
        num_classes (int, optional): labels from this one on are no class.
            None: the classes of the student's head, or what the labels show
            without a run. Defaults to None.
        ignore_index (int | str, optional): label of the pixels that take no
            part. None: every class takes part. 'head': the one of the
            student's head, or 255 without a run. Defaults to 'head'.

    Raises:
        ValueError: if an argument is out of range, or the labels are
            missing.

    Example:
        >>> import torch
        >>> features = torch.rand(2, 16, 9, 12)
        >>> label = torch.randint(4, (2, 18, 24))
        >>> IFVDLoss()(features, 3 * features, label=label).item() < 1e-6
        True
    """
    channels = 'any'
    takes_weight = True
    needs_label = True
    needs_positions = True

    def __init__(self,
                 num_classes: int | None = None,
                 ignore_index: int | str | None = 'head'):
        super().__init__()
        check_integer_or_none('num_classes', num_classes, minimum=1)
        check_ignore_index(ignore_index)
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse one channel, whose direction is fixed, and one pixel."""
        if student.shape[1] == 1:
            raise ValueError(
                'IFVDLoss compares directions of features, and one channel '
                'has none; use ValueLoss for depth and other values, or '
                "source='features'")
        if max(student.shape[2:]) == 1:
            raise ValueError('IFVDLoss compares each pixel with the others '
                             'of its class, and there is one; use a finer '
                             'level')

    def forward(self,
                student: Tensor,
                teacher: Tensor,
                *,
                label: Tensor | None = None,
                weight: Tensor | None = None) -> Tensor:
        """See :func:`ifvd_loss`."""
        if label is None:
            raise ValueError('label must hold the class of each pixel, but '
                             'got None; use a loss that needs none, '
                             "type='FitNetsLoss' with source='features'")
        return ifvd_loss(
            student, teacher, label=label, weight=weight,
            num_classes=self.num_classes, ignore_index=self.ignored_label,
            sync_ranks=self.sync_ranks)
