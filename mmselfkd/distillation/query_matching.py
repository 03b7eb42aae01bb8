"""Which query of the teacher each query of the student is compared with.

A level of queries has the class scores and, behind them, the box of each:
(N, K + 4, Q, 1).
"""
import torch

from ..hosts.places import split_queries

L1_COST, GIOU_COST = 5., 2.  # DETR's weights


def query_costs(scores: torch.Tensor, boxes: torch.Tensor,
                other_scores: torch.Tensor, other_boxes: torch.Tensor,
                is_sigmoid: bool) -> torch.Tensor:
    r"""What it costs to compare each query with each other one.

    .. math::
        C_{ij} = \sum_k (p_{ik} - q_{jk})^2 + 5 \, |b_i - d_j|_1
               + 2 \, \big(1 - \mathrm{GIoU}(b_i, d_j)\big)

    with the class probabilities p and q, by the softmax with a background
    class or by the sigmoid of the head, and the boxes b and d. The costs of
    boxes and their weights are those of DETR. Its cost of a class is minus
    the probability of the label; here the teacher has probabilities in the
    place of a label, and of equally many queries on both sides the first term
    differs from :math:`-2 \sum_k p_{ik} q_{jk}`, that cost as the teacher
    expects it, by what no order changes.

    Args:
        scores (Tensor): Class logits (Q, K).
        boxes (Tensor): cx, cy, w and h (Q, 4), as shares of the image.
        other_scores (Tensor): Class logits (Q', K).
        other_boxes (Tensor): Boxes (Q', 4).
        is_sigmoid (bool): How logits become probabilities.

    Returns:
        Tensor: (Q, Q'), finite, without a unit.

    Reference: End-to-End Object Detection with Transformers, ECCV 2020,
    arXiv:2005.12872, section 3.1.
    """
    from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps

    ours, theirs = (x.sigmoid() if is_sigmoid else x.softmax(1)
                    for x in (scores.float(), other_scores.float()))
    boxes, other_boxes = boxes.float(), other_boxes.float()
    overlap = bbox_overlaps(
        bbox_cxcywh_to_xyxy(boxes), bbox_cxcywh_to_xyxy(other_boxes),
        mode='giou')
    costs = (torch.cdist(ours, theirs).square()
             + L1_COST * torch.cdist(boxes, other_boxes, p=1)
             + GIOU_COST * (1 - overlap))
    return costs.nan_to_num(0., 1e6, -1e6)


@torch.no_grad()
def match_queries(student: torch.Tensor, teacher: torch.Tensor,
                  is_sigmoid: bool
                  ) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs of queries with the least sum of :func:`query_costs`.

    By the Hungarian method, image by image: queries have no order that two
    detectors share. Each is in one pair at most; where one side has more of
    them, some are in none.

    Args:
        student (Tensor): A level (N, K + 4, Q, 1).
        teacher (Tensor): A level (N, K + 4, Q', 1).
        is_sigmoid (bool): How logits become probabilities.

    Returns:
        list[tuple[Tensor, Tensor]]: For each image the indices of the
        student's queries, in their order, and those of the teacher's.
    """
    from scipy.optimize import linear_sum_assignment  # mmdet brings it

    found = []
    for s, t in zip(student, teacher):
        scores, boxes, other_scores, other_boxes = (
            part[0, ..., 0].T for level in (s, t)
            for part in split_queries(level[None]))
        rows, columns = (
            torch.from_numpy(index).to(student.device)
            for index in linear_sum_assignment(query_costs(
                scores, boxes, other_scores, other_boxes, is_sigmoid
            ).cpu().numpy()))
        found.append((rows, columns))
    return found


def matched(student: torch.Tensor, teacher: torch.Tensor, is_sigmoid: bool
            ) -> tuple[torch.Tensor, torch.Tensor]:
    """Both levels with the queries of a pair at one place.

    Returns:
        tuple[Tensor, Tensor]: (N, K + 4, min(Q, Q'), 1) each.
    """
    pairs = match_queries(student, teacher, is_sigmoid)
    ours, theirs = (torch.stack([level[:, index] for level, index in zip(
        side, [pair[which] for pair in pairs])]) for which, side in enumerate(
            (student, teacher)))
    return ours, theirs
