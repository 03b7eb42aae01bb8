"""Where in the levels of a detector boxes are learnt, and around that."""
from collections.abc import Sequence

import torch

MARGIN = 0.01  # by how many pixels a centre must lie inside, as in mmdet


def box_regions(anchors: Sequence[torch.Tensor], boxes: torch.Tensor,
                valid: torch.Tensor, top: int = 9, share: float = 0.25
                ) -> tuple[torch.Tensor, torch.Tensor]:
    r"""The main region and the valuable localisation region of an image.

    For each box ATSS takes the ``top`` anchors of each level whose centres
    are next to its own, the candidates. With the threshold :math:`t`, mean
    plus standard deviation of their IoU, those with an IoU of at least
    :math:`t` whose centre lies in the box are the main region. The valuable
    one are the anchors of all levels, but those of the main region, with
    :math:`\mathrm{share} \cdot t \le \mathrm{DIoU} < t` for one of the
    boxes. DIoU is the IoU less the squared distance of the centres through
    that of the corners of the smallest box around both.

    Args:
        anchors (Sequence[Tensor]): of each level (P_l, 4), x1 y1 x2 y2.
        boxes (Tensor): of the objects (n, 4), x1 y1 x2 y2.
        valid (Tensor): which anchors take part (P, ), P the sum of P_l.
        top (int): candidates of a box on each level. Defaults to 9.
        share (float): of the threshold, where the valuable region begins.
            Defaults to 0.25.

    Returns:
        tuple[Tensor, Tensor]: main and valuable region, bool (P, ).

    Reference:
        Localization Distillation for Dense Object Detection, CVPR 2022,
        arXiv:2102.12252, algorithm 1; ATSS, CVPR 2020, arXiv:1912.02424.
    """
    every = torch.cat(list(anchors))
    none = torch.zeros(len(every), dtype=torch.bool, device=every.device)
    if not len(boxes) or not valid.any():
        return none, none
    boxes = boxes.to(every)
    overlap, distant = _overlaps(every, boxes)
    centres, middles = _centres(every), _centres(boxes)
    distance = torch.cdist(centres, middles).masked_fill(
        ~valid[:, None], torch.inf)
    chosen, first = [], 0
    for level in anchors:
        part = distance[first:first + len(level)]
        chosen.append(first + part.topk(
            min(top, len(level)), dim=0, largest=False).indices)
        first += len(level)
    candidates = torch.cat(chosen)
    known = valid[candidates]
    ious = overlap.gather(0, candidates)
    # of the candidates that take part
    count = known.sum(0).clamp(min=1)
    mean = (ious * known).sum(0) / count
    deviation = (((ious - mean).square() * known).sum(0)
                 / (count - 1).clamp(min=1)).sqrt()
    threshold = mean + deviation
    inside = ((centres[:, None] - boxes[:, :2]).amin(2) > MARGIN) & (
        (boxes[:, 2:] - centres[:, None]).amin(2) > MARGIN)
    is_main = (ious >= threshold) & inside.gather(0, candidates) & known
    main = none.clone()
    main[candidates[is_main]] = True
    valuable = ((distant >= share * threshold) & (distant < threshold)).any(1)
    return main, valuable & valid & ~main


def _centres(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _overlaps(anchors: torch.Tensor, boxes: torch.Tensor
              ) -> tuple[torch.Tensor, torch.Tensor]:
    """IoU and DIoU of each anchor with each box (P, n)."""
    a, b = anchors[:, None], boxes[None]

    def area(x: torch.Tensor) -> torch.Tensor:
        return (x[..., 2:] - x[..., :2]).clamp(min=0).prod(-1)

    common = (torch.minimum(a[..., 2:], b[..., 2:])
              - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    iou = common / (area(a) + area(b) - common).clamp(min=1e-6)
    around = (torch.maximum(a[..., 2:], b[..., 2:])
              - torch.minimum(a[..., :2], b[..., :2])).square().sum(-1)
    apart = ((_centres(anchors)[:, None] - _centres(boxes)).square().sum(-1))
    return iou, iou - apart / around.clamp(min=1e-6)
