"""Which detection a reader would take for a ground-truth instance."""

from __future__ import annotations

import torch
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor

MIN_IOU = 0.5


def best_detections(truth: Tensor, boxes: Tensor, scores: Tensor) -> Tensor:
    """The highest-scoring detection, of whatever class, on each ground-truth instance.

    Args:
        truth: Boxes of the instances as x1, y1, x2, y2, shape (T, 4).
        boxes: Boxes of the detections, shape (N, 4).
        scores: Their scores, shape (N,).

    Returns:
        Index of the detection with the highest score among those with an IoU of at least 0.5,
        shape (T,); -1 where there is none.
    """
    if not len(truth) or not len(boxes):
        return torch.full((len(truth),), -1)
    overlaps = bbox_overlaps(truth.to(boxes), boxes)
    candidates = torch.where(overlaps >= MIN_IOU, scores, -torch.inf)
    best = candidates.max(dim=1)
    return torch.where(best.values > -torch.inf, best.indices, -1).cpu()
