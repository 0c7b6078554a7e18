"""mIoU and mAcc of head, body and tail classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np
from mmengine.logging import MMLogger, print_log
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS
from prettytable import PrettyTable

from ..analysis import Evaluation, count_confusion, group_means, named_confusion
from ..calibration import ClassPrior, PriorLike
from ..calibration.groups import GROUP_NAMES


@METRICS.register_module()
class LongTailIoUMetric(IoUMetric):
    """mmseg's ``IoUMetric`` with the means over head, body and tail classes.

    Adds ``mHeadIoU``, ``mBodyIoU``, ``mTailIoU``, ``mHeadAcc``, ``mBodyAcc`` and ``mTailAcc``, in
    per cent. A class without an IoU (neither predicted nor in the ground truth) or Acc (not in
    the ground truth) is left out of the means, as mmseg does.

    Args:
        class_prior: Decides the groups: anything that ``ClassPrior.build`` takes.
        result_file: Where to write the means, the values per class and the groups, as JSON.
            Default: None.
        kwargs: Arguments of ``IoUMetric``; ``iou_metrics`` must contain ``'mIoU'``.
    """

    def __init__(
        self, class_prior: PriorLike, *, result_file: Optional[str] = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if 'mIoU' not in self.metrics:
            raise ValueError(f"iou_metrics must contain 'mIoU', got {self.metrics}")
        self.class_prior = ClassPrior.build(class_prior)
        self.result_file = result_file

    @IoUMetric.dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        """Take the data set's classes, which the prior must match."""
        self.class_prior.check_classes(dataset_meta['classes'])
        self._dataset_meta = dataset_meta

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep of each image the areas of the classes, and which group was predicted as which."""
        done = len(self.results)
        super().process(data_batch, data_samples)
        if not self.format_only:
            self.results[done:] = [
                (*areas, self._confusion(sample))
                for areas, sample in zip(self.results[done:], data_samples)
            ]

    def _confusion(self, sample: dict) -> Optional[np.ndarray]:
        """Of an image; None where it is not written, since it takes as long as the areas."""
        if self.result_file is None:
            return None
        predicted = sample['pred_sem_seg']['data'].flatten()
        truth = sample['gt_sem_seg']['data'].flatten().to(predicted.device)
        counted = truth != self.ignore_index
        groups, num_classes = self.class_prior.groups, len(self.class_prior)
        return count_confusion(truth[counted], predicted[counted], groups, num_classes)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics from what ``process`` kept of all images."""
        if self.format_only:
            return super().compute_metrics(results)
        confusions = [confusion for *_, confusion in results]
        results = [areas for *areas, _ in results]
        metrics = super().compute_metrics(results)
        per_class = self._per_class(results)
        for name, values in per_class.items():
            for group, mean in group_means(values, self.class_prior.groups).items():
                metrics[f'm{group.capitalize()}{name}'] = round(mean, 2)
        self._log_groups(metrics)
        if self.result_file is not None:
            self._write(metrics, per_class, sum(confusions))
        return metrics

    def _per_class(self, results: list) -> dict[str, np.ndarray]:
        # Pixel counts of a large data set exceed what float32 adds exactly.
        areas = [sum(area.double() for area in image_areas) for image_areas in zip(*results)]
        per_class = self.total_area_to_metrics(*areas, ['mIoU'], self.nan_to_num)
        return {name: np.asarray(per_class[name]) * 100 for name in ('IoU', 'Acc')}

    def _log_groups(self, metrics: Mapping[str, float]) -> None:
        names = [
            f'm{group.capitalize()}{value}' for value in ('IoU', 'Acc') for group in GROUP_NAMES
        ]
        table = PrettyTable(names)
        table.add_row([metrics[name] for name in names])
        print_log(f'\n{table}', MMLogger.get_current_instance())

    def _write(
        self,
        metrics: Mapping[str, float],
        per_class: Mapping[str, np.ndarray],
        confusion: np.ndarray,
    ) -> None:
        groups, shares = self.class_prior.groups, self.class_prior.frequencies.tolist()
        Evaluation(
            metrics,
            list(self.dataset_meta['classes']),
            groups,
            shares,
            per_class,
            named_confusion(confusion, groups),
        ).save(self.result_file)
