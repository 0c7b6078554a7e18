"""LVIS's metrics, fixed and pooled AP, and the means over head, body and tail classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import torch
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.fileio import get_local_path
from mmengine.logging import MMLogger, print_log
from pycocotools import mask as mask_utils
from terminaltables import AsciiTable

from ..analysis import Evaluation, count_confusion, named_confusion, partition
from ..calibration import ClassPrior, PriorLike
from . import lvis_eval, lvis_reference
from .lvis_eval import Curves, GroundTruth, Regions, as_objects
from .matching import best_detections, boxes_of, have_area, with_true_classes

BACKENDS = {'faster_coco_eval': lvis_eval.evaluate, 'lvis': lvis_reference.evaluate}
REGIONS = ('bbox', 'segm')
MAX_PER_IMAGE = 300
MAX_PER_CLASS = 10_000
IOU_75 = 5  # index of IoU 0.75 in 0.50, 0.55, ..., 0.95


@METRICS.register_module()
class LongTailLVISMetric(BaseMetric):
    """AP of boxes and masks on LVIS- and COCO-style annotation files, by frequency of the classes.

    For each of ``metric``, here ``bbox``, in [0, 1], or -1 where there is no ground truth:

    - ``lvis/bbox_AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl`` and ``AR@300``, of the 300
      best detections of each image, as lvis-api computes them;
    - ``APr``, ``APc`` and ``APf`` if the categories have a ``frequency``, as in LVIS; ``APhead``,
      ``APbody`` and ``APtail`` if there is a ``class_prior``;
    - with ``fixed_ap``, ``lvis/bbox_fixed_AP`` and its kin, of the 10,000 best detections of each
      class however many in an image, and ``lvis/bbox_pooled_AP`` and its kin, of the same
      detections with those of all classes in one ranking (Dave et al. 2021, "Evaluating
      Large-Vocabulary Object Detectors: The Devil is in the Details", arXiv:2102.01066).
      The model should keep more than 300 detections per image for that;
    - with ``ceiling``, ``lvis/bbox_ceiling_AP`` and its kin: what the boxes would come to if each
      were of the class of what it is on. No calibration of the scores of classes can do much
      better, see :func:`mmdisalign.detection.matching.with_true_classes`.

    Images without ``neg_category_ids``, as in COCO, count for all categories. Of a detection that
    does not count, for its image was not annotated for its class, no box or mask is held.

    Unlike mmdet's ``LVISMetric``, the values are not rounded, and the size of a mask, not of its
    box, decides whether it is small, medium or large.

    Args:
        ann_file: Annotation file of the evaluated data set.
        metric: ``'bbox'``, ``'segm'`` or both. Default: ``'bbox'``.
        fixed_ap: Whether to compute fixed and pooled AP, too. Default: False.
        ceiling: Whether to compute the AP of boxes with true classes, too. Default: False.
        class_prior: Decides head, body and tail: anything that ``ClassPrior.build`` takes, in the
            classes of the annotation file. Default: None, no such groups.
        backend: ``'faster_coco_eval'`` or ``'lvis'``, the slow reference, which reads local LVIS
            files only. Default: ``'faster_coco_eval'``.
        result_file: Where to write the means and the AP per class, in per cent, the groups, and
            which group the highest-scoring detection on an instance is of, as JSON. Default: None.
        backend_args: Of mmengine's file backend, to read ``ann_file``. Default: None.
        kwargs: Arguments of mmengine's ``BaseMetric``.

    Attributes:
        ground_truth: What the annotation file says.
        categories: Index there of each class of the data set, shape (C,).

    Raises:
        FileNotFoundError: If there is no ``ann_file``.
        ImportError: If the backend is not installed.
        ValueError: If an argument, or the annotation file, is none of the above.
    """

    default_prefix: Optional[str] = 'lvis'

    def __init__(
        self,
        ann_file: str,
        metric: Union[str, Sequence[str]] = 'bbox',
        *,
        fixed_ap: bool = False,
        ceiling: bool = False,
        class_prior: Optional[PriorLike] = None,
        backend: str = 'faster_coco_eval',
        result_file: Optional[str] = None,
        backend_args: Optional[dict] = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.metrics = [metric] if isinstance(metric, str) else list(metric)
        if not self.metrics or not set(self.metrics) <= set(REGIONS):
            raise ValueError(f'metric is one or both of {REGIONS}, got {metric!r}')
        if backend not in BACKENDS:
            raise ValueError(f'backend is one of {tuple(BACKENDS)}, got {backend!r}')
        if backend == 'lvis':
            lvis_reference.reference_evaluator()
        self.backend = backend
        self.fixed_ap, self.ceiling = fixed_ap, ceiling
        self.result_file = result_file
        self.class_prior = None if class_prior is None else ClassPrior.build(class_prior)
        with get_local_path(ann_file, backend_args=backend_args) as path:
            if not Path(path).is_file():
                raise FileNotFoundError(
                    f'ann_file of LongTailLVISMetric: there is no {ann_file}; it is the '
                    'annotation file of the data set that is evaluated'
                )
            # Which group was taken for which, by boxes, is found out only where it is written.
            written = result_file is not None
            regions = dict.fromkeys([*self.metrics, *['bbox'] * (written or ceiling)])
            self.ground_truth = GroundTruth(path, list(regions))
        self.categories = np.arange(len(self.ground_truth.names))

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        """Take the data set's classes, which must be in the annotation file and match the prior."""
        self.categories = category_of_labels(dataset_meta['classes'], self.ground_truth)
        self._check_prior()
        self._dataset_meta = dataset_meta

    @property
    def classes(self) -> list[str]:
        """Names of the evaluated classes, as the annotation file has them, by label."""
        return [self.ground_truth.names[category] for category in self.categories]

    @property
    def groups(self) -> dict[str, list[int]]:
        """Labels by frequency of the class: r, c and f, and head, body and tail."""
        label_of = {category: label for label, category in enumerate(self.categories.tolist())}
        groups = {
            name: [label_of[category] for category in members if category in label_of]
            for name, members in self.ground_truth.groups.items()
        }
        return groups if self.class_prior is None else {**groups, **self.class_prior.groups}

    def _check_prior(self) -> None:
        if self.class_prior is not None:
            self.class_prior.check_classes(self.classes)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the detections of a batch: boxes and RLEs of those that count, scores of all.

        Args:
            data_batch: Not used.
            data_samples: Predictions as mmdet's detectors make them: ``img_id`` and
                ``pred_instances`` with ``bboxes`` (N, 4) as x1, y1, x2, y2, ``scores`` (N,),
                ``labels`` (N,), and for 'segm' ``masks``, (N, height, width) or N RLEs.

        Raises:
            ValueError: If the annotation file lacks the image or a label, or the masks have another
                size than the image there.
            KeyError: If masks are to be evaluated, but there are none.
        """
        for sample in data_samples:
            image = self.ground_truth.image_index(sample['img_id'])
            self.results.append(self._image_result(image, sample['pred_instances']))

    def _image_result(self, image: int, predictions: Mapping) -> dict[str, Any]:
        labels = predictions['labels'].cpu().numpy()
        if len(labels) and labels.max() >= len(self.categories):
            raise ValueError(
                f'a detection has label {labels.max()}, but {self.ground_truth.path} has '
                f'{len(self.categories)} of the classes: num_classes of the model is another'
            )
        categories = self.categories[labels]
        counted = np.flatnonzero(self.ground_truth.counts(image, categories))
        scores = predictions['scores'].cpu().numpy()
        result = {
            'image': image,
            'category': categories.astype(np.int32),
            'counted': counted.astype(np.int32),
            'bbox_score': scores,
        }
        if 'bbox' in self.metrics:
            result['bbox'] = predictions['bboxes'].cpu().numpy()[counted]
        if self.result_file is not None:
            result['matched'] = self._matched(image, predictions, categories)
        if self.ceiling:
            result['ceiling'] = self.with_true_classes(image, predictions)
        if 'segm' in self.metrics:
            masks = predictions.get('masks')
            result['segm'] = encode_masks(masks, counted, self.ground_truth.sizes[image])
            # Some detectors score masks apart from boxes.
            result['segm_score'] = (
                predictions['mask_scores'].cpu().numpy() if 'mask_scores' in predictions else scores
            )
        return result

    def _matched(self, image: int, predictions: Mapping, categories: np.ndarray) -> np.ndarray:
        """Category of each instance and of the best detection on it, -1 without one: (2, T)."""
        boxes, truth = self._instances_of(image)
        best = best_detections(boxes, boxes_of(predictions), predictions['scores']).numpy()
        return np.stack([truth, np.append(categories, -1)[best]]).astype(np.int32)

    @cached_property
    def _instances(self) -> dict[int, tuple[torch.Tensor, np.ndarray]]:
        return _by_image(self.ground_truth)

    def _instances_of(self, image: int) -> tuple[torch.Tensor, np.ndarray]:
        return self._instances.get(image, (torch.zeros(0, 4), np.zeros(0, np.int32)))

    def with_true_classes(self, image: int, predictions: Mapping) -> dict[str, Any]:
        """What ``process`` would keep of an image classified without an error.

        Args:
            image: Its index in the annotation file.
            predictions: Its ``pred_instances``.
        """
        boxes, truth = self._instances_of(image)
        own, scores = boxes_of(predictions), predictions['scores']
        kept, category = with_true_classes(boxes, torch.from_numpy(truth), own, scores)
        return {
            'image': image,
            'category': category.numpy(),
            'counted': np.arange(len(kept), dtype=np.int32),
            'bbox': own.cpu()[kept].numpy(),
            'bbox_score': scores.cpu()[kept].numpy(),
        }

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Compute the metrics from what ``process`` kept of all images.

        Without a single detection there are none, as in mmdet: the result is empty. Those of boxes
        are left out if the model predicts masks alone.
        """
        if not any(len(result['category']) for result in results):
            print_log('The testing results of the whole dataset is empty.', 'current')
            return {}
        self._check_prior()
        # In the file's order, ties of scores do not depend on how images were dealt to processes.
        results = sorted(results, key=lambda result: result['image'])
        groups = self.groups
        summary: dict[str, float] = {}
        per_class: dict[str, list[float]] = {}
        for metric in self._predicted(results):
            for protocol, curves in self._evaluate(metric, results).items():
                name = f'{metric}{protocol}_AP'
                if protocol == '_pooled':
                    means = _summarize_pools(curves, groups)
                else:
                    means = _summarize_classes(curves, groups)
                    per_class[name] = _mean_over_ious(curves.ap[:, :, 0])
                    if not protocol:
                        means[f'AR@{MAX_PER_IMAGE}'] = _mean(curves.recall[:, :, 0])
                summary.update({f'{metric}{protocol}_{key}': mean for key, mean in means.items()})
        self._log(summary)
        if self.result_file is not None:
            self._write(summary, per_class, self._confusion(results))
        return {key: -1.0 if np.isnan(mean) else mean for key, mean in summary.items()}

    def _predicted(self, results: list[dict]) -> list[str]:
        """Those of ``metric`` that there are regions for."""
        boxes = [result['bbox'] for result in results if len(result.get('bbox', ()))]
        if not boxes or have_area(torch.from_numpy(np.concatenate(boxes))).any():
            return self.metrics
        print_log('No box has an area: the model predicts masks alone, so only they are evaluated.')
        return [metric for metric in self.metrics if metric != 'bbox']

    def _evaluate(self, metric: str, results: list[dict]) -> dict[str, Curves]:
        evaluate = BACKENDS[self.backend]
        classes = [[category] for category in self.categories.tolist()]
        detections = gather(results, metric, best_of_images(results, metric))
        curves = {'': evaluate(self.ground_truth, metric, detections, classes)}
        if self.ceiling and metric == 'bbox':
            own = [result['ceiling'] for result in results]
            detections = gather(own, metric, best_of_images(own, metric))
            curves['_ceiling'] = evaluate(self.ground_truth, metric, detections, classes)
        if self.fixed_ap:
            detections = gather(results, metric, _best_of_classes(results, metric))
            curves['_fixed'] = evaluate(self.ground_truth, metric, detections, classes)
            pools = [range(len(classes)), *self.groups.values()]
            pools = [self.categories[list(labels)].tolist() for labels in pools]
            curves['_pooled'] = evaluate(self.ground_truth, metric, detections, pools)
        return curves

    def _log(self, summary: Mapping[str, float]) -> None:
        values: dict[str, dict[str, str]] = {}
        for key, mean in summary.items():
            name, column = key.rsplit('_', 1)
            values.setdefault(name, {})[column] = '-' if np.isnan(mean) else f'{100 * mean:.2f}'
        columns = list(dict.fromkeys(column for own in values.values() for column in own))
        rows = [[name, *(own.get(key, '') for key in columns)] for name, own in values.items()]
        table = [['in %', *columns], *rows]
        print_log(f'\n{AsciiTable(table).table}', MMLogger.get_current_instance())

    def _confusion(self, results: list[dict]) -> Optional[dict[str, dict[str, float]]]:
        groups = partition(self.groups)
        if self.result_file is None or not groups:
            return None
        label_of = np.full(len(self.ground_truth.names) + 1, -1)
        label_of[self.categories] = np.arange(len(self.categories))
        truth, predicted = label_of[np.concatenate([r['matched'] for r in results], axis=1)]
        return named_confusion(count_confusion(truth, predicted, groups, len(self.classes)), groups)

    def _write(
        self,
        summary: Mapping[str, float],
        per_class: Mapping[str, list[float]],
        confusion: Optional[dict[str, dict[str, float]]],
    ) -> None:
        shares = None if self.class_prior is None else self.class_prior.frequencies.tolist()
        Evaluation(
            {key: 100 * mean for key, mean in summary.items()},
            self.classes,
            self.groups,
            shares,
            {key: [100 * ap for ap in values] for key, values in per_class.items()},
            confusion,
        ).save(self.result_file)


def category_of_labels(classes: Sequence[str], ground_truth: GroundTruth) -> np.ndarray:
    """Category index of each label, shape (C,): mmdet's data sets count labels in the file's order.

    Args:
        classes: Names of the data set's classes. If there are as many as in the file, a minority
            may be spelled differently, as mmdet's LVIS classes are.
        ground_truth: The annotation file.

    Raises:
        ValueError: If the file lacks classes of the data set.
    """
    known = set(classes) & set(ground_truth.names)
    if len(classes) == len(ground_truth.names) and 2 * len(known) > len(classes):
        return np.arange(len(classes))
    unknown = [name for name in classes if name not in known]
    if unknown:
        shown = ', '.join(unknown[:5]) + (', ...' if len(unknown) > 5 else '')
        raise ValueError(
            f'{len(unknown)} of {len(classes)} classes of the data set are not in '
            f'{ground_truth.path}: {shown}; ann_file or metainfo is of another data set'
        )
    return np.flatnonzero([name in known for name in ground_truth.names])


def encode_masks(
    masks: Union[torch.Tensor, Sequence[Mapping], None], chosen: np.ndarray, size: tuple[int, int]
) -> list[bytes]:
    """Compressed RLE counts of some masks.

    Args:
        masks: Dense, (N, height, width), or N RLEs.
        chosen: Indices of the masks to encode, shape (M,).
        size: Height and width of the image.

    Raises:
        KeyError: If there are no masks.
        ValueError: If masks have another size.
    """
    if masks is None:
        raise KeyError("metric 'segm' needs masks, but the model predicts none: use metric='bbox'")
    if not len(chosen):
        return []
    if isinstance(masks, torch.Tensor):
        dense = masks[torch.from_numpy(chosen).to(masks.device)].cpu().numpy()
        rles = mask_utils.encode(np.asfortranarray(dense.transpose(1, 2, 0), dtype=np.uint8))
    else:
        rles = [masks[index] for index in chosen]
    if tuple(rles[0]['size']) != tuple(size):
        raise ValueError(
            f'masks of height and width {tuple(rles[0]["size"])} for an image that is {size} in '
            'the annotation file: predict with rescale=True, on the images of that file'
        )
    counts = (rle['counts'] for rle in rles)
    return [value.encode() if isinstance(value, str) else value for value in counts]


def _by_image(ground_truth: GroundTruth) -> dict[int, tuple[torch.Tensor, np.ndarray]]:
    """Boxes (T, 4) as x1, y1, x2, y2 and categories (T,) of the instances, without crowds."""
    regions = ground_truth.regions['bbox']
    regions = regions[regions.crowd == 0]
    regions = regions[np.argsort(regions.image, kind='stable')]
    corners = np.concatenate([regions.shape[:, :2], regions.shape[:, :2] + regions.shape[:, 2:]], 1)
    images, first = np.unique(regions.image, return_index=True)
    parts = zip(np.split(corners, first[1:]), np.split(regions.category, first[1:]))
    return {
        image: (torch.from_numpy(boxes), categories)
        for image, (boxes, categories) in zip(images.tolist(), parts)
    }


def gather(results: Sequence[Mapping], metric: str, selected: Sequence[np.ndarray]) -> Regions:
    """The selected detections that count, of all images, in columns; those without area left out.

    Args:
        results: What ``process`` keeps of each image.
        metric: ``'bbox'`` or ``'segm'``.
        selected: For each image, which of its detections are selected, bool (N,).
    """
    chosen = [choice[result['counted']] for choice, result in zip(selected, results)]
    kept = [result['counted'][choice] for choice, result in zip(chosen, results)]
    image = np.repeat([result['image'] for result in results], [len(index) for index in kept])
    category, score = (
        np.concatenate([result[name][index] for result, index in zip(results, kept)])
        for name in ('category', f'{metric}_score')
    )
    if metric == 'bbox':
        corners = [result['bbox'][choice] for result, choice in zip(results, chosen)]
        shape = np.concatenate(corners).astype(np.float64)
        shape[:, 2:] -= shape[:, :2]
        area = shape[:, 2] * shape[:, 3]
    else:
        masks = [
            result['segm'][index]
            for result, choice in zip(results, chosen)
            for index in np.flatnonzero(choice)
        ]
        shape = as_objects(masks, len(masks))
        # An area does not depend on height and width.
        area = np.array([mask_utils.area({'size': (1, 1), 'counts': mask}) for mask in masks])
    detections = Regions(image, category, area.astype(np.float64), shape, score.astype(np.float64))
    return detections[detections.area > 0]


def best_of_images(results: Sequence[Mapping], metric: str) -> list[np.ndarray]:
    """Which detections are the 300 best of their image; see :func:`gather`."""
    selected = []
    for result in results:
        chosen = np.zeros(len(result['category']), bool)
        chosen[np.argsort(-result[f'{metric}_score'], kind='stable')[:MAX_PER_IMAGE]] = True
        selected.append(chosen)
    return selected


def _best_of_classes(results: Sequence[Mapping], metric: str) -> list[np.ndarray]:
    scores = np.concatenate([result[f'{metric}_score'] for result in results])
    category = np.concatenate([result['category'] for result in results])
    order = np.lexsort((-scores, category))
    _, first, number = np.unique(category[order], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(first, number)
    chosen = np.zeros(len(order), bool)
    chosen[order[rank < MAX_PER_CLASS]] = True
    return np.split(chosen, np.cumsum([len(result['category']) for result in results])[:-1])


def _summarize_classes(curves: Curves, groups: Mapping[str, Sequence[int]]) -> dict[str, float]:
    ap = curves.ap
    return {
        'AP': _mean(ap[:, :, 0]),
        'AP50': _mean(ap[0, :, 0]),
        'AP75': _mean(ap[IOU_75, :, 0]),
        **{f'AP{size}': _mean(ap[:, :, area]) for area, size in enumerate('sml', start=1)},
        **{f'AP{name}': _mean(ap[:, members, 0]) for name, members in groups.items()},
    }


def _summarize_pools(curves: Curves, groups: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Of the pool of all classes, first, and of the pool of each group."""
    means = _summarize_classes(Curves(curves.ap[:, :1], curves.recall[:, :1]), {})
    return {
        **means,
        **{
            f'AP{name}': _mean(curves.ap[:, number, 0])
            for number, name in enumerate(groups, start=1)
        },
    }


def _mean_over_ious(ap: np.ndarray) -> list[float]:
    return ap.mean(axis=0).tolist()


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float('nan')
