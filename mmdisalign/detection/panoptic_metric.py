"""Panoptic quality, and its means over head, body and tail classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.fileio import get_local_path
from mmengine.logging import MMLogger, print_log

from ..analysis import (
    Evaluation,
    count_confusion,
    group_means,
    markdown_table,
    named_confusion,
)
from ..calibration import ClassPrior, PriorLike
from .metrics import category_of_labels
from .panoptic_quality import Matches, PanopticTruth, Segments, match


@METRICS.register_module()
class LongTailPanopticMetric(BaseMetric):
    """Panoptic quality on annotation files of COCO's panoptic format, by frequency of the classes.

    In per cent, NaN where there is no class to take the mean of:

    - ``coco_panoptic/PQ``, ``SQ`` and ``RQ``, means over the classes that are in the ground truth
      or predicted; ``PQ_th`` and its kin over things, ``PQ_st`` and its kin over stuff, as mmdet's
      ``CocoPanopticMetric`` has them, which needs panopticapi;
    - ``PQhead``, ``PQbody`` and ``PQtail`` if there is a ``class_prior``.

    Args:
        ann_file: Annotation file of the evaluated data set.
        seg_prefix: Folder of the PNG files that it names.
        class_prior: Decides head, body and tail: anything that ``ClassPrior.build`` takes, in the
            classes of the data set. Default: None, no such groups.
        result_file: Where to write the means, the values per class, the groups, and which group
            the segment that is found on another is of, as JSON. Default: None.
        backend_args: Of mmengine's file backend, to read both. Default: None.
        kwargs: Arguments of mmengine's ``BaseMetric``.

    Raises:
        FileNotFoundError: If there is no ``ann_file``, or no ``seg_prefix``.
        ValueError: If it is no such file, or the classes are others.
    """

    default_prefix: Optional[str] = 'coco_panoptic'

    def __init__(
        self,
        ann_file: str,
        seg_prefix: str,
        *,
        class_prior: Optional[PriorLike] = None,
        result_file: Optional[str] = None,
        backend_args: Optional[dict] = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.result_file = result_file
        self.class_prior = None if class_prior is None else ClassPrior.build(class_prior)
        with get_local_path(ann_file, backend_args=backend_args) as path:
            for name, here in (('ann_file', path), ('seg_prefix', seg_prefix)):
                if '://' not in str(here) and not Path(here).exists():
                    raise FileNotFoundError(f'{name} of LongTailPanopticMetric: there is no {here}')
            self.ground_truth = PanopticTruth(path, seg_prefix, backend_args)

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        """Take the data set's classes, which must be the annotation file's and match the prior."""
        found = category_of_labels(dataset_meta['classes'], self.ground_truth)
        if len(found) < len(self.classes):
            raise ValueError(
                f'the data set has {len(found)} of the {len(self.classes)} classes of '
                f'{self.ground_truth.path}: mmdet reads panoptic files with all of their categories'
            )
        if self.class_prior is not None:
            self.class_prior.check_classes(self.classes)
        self._dataset_meta = dataset_meta

    @property
    def classes(self) -> list[str]:
        """Names of the classes by label, which are the categories in the order of the file."""
        return self.ground_truth.names

    @property
    def groups(self) -> dict[str, list[int]]:
        """Labels of head, body and tail; without a prior, none."""
        return {} if self.class_prior is None else self.class_prior.groups

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Match the segments of a batch.

        Args:
            data_batch: Not used.
            data_samples: Predictions as mmdet's segmentors make them: ``img_id`` and
                ``pred_panoptic_seg`` with ``sem_seg``, (1, H, W).

        Raises:
            KeyError: If there is no panoptic prediction.
            ValueError: If the annotation file lacks the image, or it has another size.
        """
        for sample in data_samples:
            if 'pred_panoptic_seg' not in sample:
                raise KeyError(
                    'LongTailPanopticMetric needs panoptic predictions, but the model makes none: '
                    'set panoptic_on=True in its test_cfg, or take LongTailLVISMetric'
                )
            predicted = panoptic_map(sample)
            truth = self.ground_truth.segments(sample['img_id'])
            if truth.index.shape != predicted.shape:
                raise ValueError(
                    f'image {sample["img_id"]} is predicted in {predicted.shape} pixels, and '
                    f'annotated in {truth.index.shape}: predict with rescale=True'
                )
            predicted = Segments.predicted(predicted, self.ground_truth.is_thing)
            self.results.append((sample['img_id'], match(truth, predicted)))

    def compute_metrics(self, results: list[tuple[int, Matches]]) -> dict[str, float]:
        """Compute the metrics from what ``process`` kept of all images."""
        # In one order, sums do not depend on how images were dealt to processes.
        found = Matches.joined([own for _, own in sorted(results, key=lambda result: result[0])])
        per_class = {
            name: 100 * values for name, values in found.quality(len(self.classes)).items()
        }
        is_thing = self.ground_truth.is_thing
        parts = {'': np.full_like(is_thing, True), '_th': is_thing, '_st': ~is_thing}
        parts = {part: np.flatnonzero(chosen) for part, chosen in parts.items()}
        metrics = {
            f'{name}{part}': group_means(values, parts)[part]
            for part in parts
            for name, values in per_class.items()
        }
        for group, mean in group_means(per_class['PQ'], self.groups).items():
            metrics[f'PQ{group}'] = mean
        values = ['-' if np.isnan(mean) else f'{mean:.2f}' for mean in metrics.values()]
        table = markdown_table(['in %', *metrics], [['panoptic', *values]])
        print_log(f'\n{table}', MMLogger.get_current_instance())
        if self.result_file is not None:
            self._write(metrics, per_class, found)
        return metrics

    def _write(
        self, metrics: Mapping[str, float], per_class: Mapping[str, np.ndarray], found: Matches
    ) -> None:
        confusion, shares = None, None
        if self.class_prior is not None:
            counts = count_confusion(found.truth, found.found, self.groups, len(self.classes))
            confusion = named_confusion(counts, self.groups)
            shares = self.class_prior.frequencies.tolist()
        Evaluation(metrics, self.classes, self.groups, shares, per_class, confusion).save(
            self.result_file
        )


def panoptic_map(sample: Mapping[str, Any]) -> np.ndarray:
    """What mmdet predicts of an image, see :meth:`Segments.predicted`, shape (H, W)."""
    return np.asarray(sample['pred_panoptic_seg']['sem_seg'].cpu())[0]
