"""Which detection a reader would take for a ground-truth instance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmdet.structures.bbox import bbox_overlaps
from mmdet.structures.mask import mask2bbox
from pycocotools import mask as mask_utils
from torch import Tensor
from torchvision.ops import batched_nms

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


def with_true_classes(
    truth: Tensor, classes: Tensor, boxes: Tensor, scores: Tensor
) -> tuple[Tensor, Tensor]:
    """What a detector would find whose boxes were classified without an error.

    Each detection is of the class of the instance that it overlaps most, with an IoU of at least
    0.5; those on no instance would have been taken for background. Of one class, those that
    overlap a better one with an IoU above 0.5 are suppressed, as a head does.

    Args:
        truth: Boxes of the instances, shape (T, 4).
        classes: Their classes, shape (T,).
        boxes: Boxes of the detections, shape (N, 4).
        scores: Their scores, shape (N,).

    Returns:
        Indices of the detections that are left, the best first, and their classes, both (M,).
    """
    if not len(truth) or not len(boxes):
        return torch.zeros(0, dtype=torch.long), classes[:0].cpu()
    most, which = bbox_overlaps(boxes, truth.to(boxes)).max(dim=1)
    found = (most >= MIN_IOU).nonzero().flatten()
    own = classes.to(boxes.device)[which[found]]
    kept = batched_nms(boxes[found], scores[found], own, MIN_IOU)
    return found[kept].cpu(), own[kept].cpu()


def boxes_of(predictions: Mapping[str, Any]) -> Tensor:
    """The boxes of detections, shape (N, 4); around the masks of a model that has masks alone.

    Args:
        predictions: ``bboxes``, and where these have no area, as SOLO's, ``masks``, dense or RLEs.
    """
    boxes, masks = predictions['bboxes'], predictions.get('masks')
    if masks is None or not len(boxes) or have_area(boxes).any():
        return boxes
    if isinstance(masks, Tensor):
        return mask2bbox(masks.bool())
    corners = torch.from_numpy(mask_utils.toBbox(list(masks))).to(boxes)
    corners[:, 2:] += corners[:, :2]
    return corners


def have_area(boxes: Tensor) -> Tensor:
    """Which boxes, x1, y1, x2, y2, have one, shape (N,)."""
    return (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
