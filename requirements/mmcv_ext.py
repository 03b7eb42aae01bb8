"""Stands in for mmcv's compiled operators, as ``mmcv/_ext.py``.

mmcv-lite has none, yet mmseg and mmdet import the functions around them. They
can be imported with this module. A detector can predict, by the suppression
below; a call of any other operator fails.
"""
import torch


def nms(boxes, scores, iou_threshold, offset):
    """Indices of the boxes (n, 4) that none of a higher score overlaps."""
    area = (boxes[:, 2:] - boxes[:, :2] + offset).prod(1)
    order, kept = scores.argsort(descending=True), []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        sides = (torch.minimum(boxes[best, 2:], boxes[order, 2:])
                 - torch.maximum(boxes[best, :2], boxes[order, :2]) + offset)
        shared = sides.clamp(min=0).prod(1)
        overlap = shared / (area[best] + area[order] - shared)
        order = order[overlap <= iou_threshold]
    return torch.stack(kept) if kept else order


def __getattr__(name):
    if name.startswith('__'):
        raise AttributeError(name)

    def operator(*args, **kwargs):
        raise NotImplementedError(f'mmcv-lite has no operator {name}')

    return operator
