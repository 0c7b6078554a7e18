"""Average precision by lvis-api, the reference implementation: slow, and optional."""

from __future__ import annotations

from collections.abc import Sequence
from types import FunctionType
from typing import Any

import numpy as np

from .lvis_eval import Curves, GroundTruth, Regions


class _NumpyWithFloat:
    """numpy with the name ``float``, which numpy 1.24 removed and lvis 0.5.3 uses."""

    float = float

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def reference_evaluator() -> type:
    """``lvis.LVISEval``, for any numpy; the installed package stays as it is.

    Raises:
        ImportError: If lvis is not installed; the message says how to install it.
    """
    try:
        from lvis import eval as module
    except ImportError as error:
        raise ImportError(
            "backend='lvis' needs the package lvis: pip install lvis; or use the default, "
            "backend='faster_coco_eval', which gives the same numbers"
        ) from error
    # The method's own code, in a copy of its module's names: nobody else sees another numpy.
    names = {**vars(module), 'np': _NumpyWithFloat()}
    accumulate = FunctionType(module.LVISEval.accumulate.__code__, names)
    return type('LVISEval', (module.LVISEval,), {'accumulate': accumulate})


def evaluate(
    ground_truth: GroundTruth, metric: str, detections: Regions, pools: Sequence[Sequence[int]]
) -> Curves:
    """Evaluate with lvis-api; arguments as :func:`mmdisalign.detection.lvis_eval.evaluate`.

    It reads the annotation file itself.

    Raises:
        ValueError: If the file lacks what lvis-api needs beside COCO's keys.
    """
    evaluator_class = reference_evaluator()
    from lvis import LVIS, LVISResults

    if not (ground_truth.federated and ground_truth.groups):
        raise ValueError(
            f"backend='lvis' needs frequency and neg_category_ids, which {ground_truth.path} has "
            "not; use backend='faster_coco_eval'"
        )
    lvis_gt = LVIS(ground_truth.path)
    results = LVISResults(lvis_gt, _results(ground_truth, detections), max_dets=-1)
    evaluator = evaluator_class(lvis_gt, results, iou_type=metric)
    evaluator.params.cat_ids = list(ground_truth.category_ids)
    evaluator.evaluate()
    return _accumulate(evaluator, pools)


def _accumulate(evaluator: Any, pools: Sequence[Sequence[int]]) -> Curves:
    """Accumulate each pool as if it were a class, by giving it its classes' matches as images."""
    params, matches = evaluator.params, evaluator.eval_imgs
    num_areas, num_images = len(params.area_rng), len(params.img_ids)
    params.use_cats = 0
    curves = Curves.empty(len(pools))
    for number, members in enumerate(pools):
        params.img_ids = range(num_images * len(members))
        evaluator.eval_imgs = [
            matches[(category * num_areas + area) * num_images + image]
            for area in range(num_areas)
            for image in range(num_images)
            for category in members
        ]
        evaluator.accumulate()
        found = evaluator.eval
        curves.set(number, found['precision'][:, :, 0], found['recall'][:, 0])
    return curves


def _results(ground_truth: GroundTruth, detections: Regions) -> list[dict]:
    records = detections.records(ground_truth.sizes)
    for record, image, category in zip(records, detections.image, detections.category):
        record['image_id'] = ground_truth.image_ids[image]
        record['category_id'] = ground_truth.category_ids[category]
    # lvis-api fails without any result, and drops one without area.
    nothing = {'bbox': [0, 0, 0, 0], 'score': 0.0, 'segmentation': [[0] * 6]}
    ids = {'image_id': ground_truth.image_ids[0], 'category_id': ground_truth.category_ids[0]}
    return records or [{**nothing, **ids}]
