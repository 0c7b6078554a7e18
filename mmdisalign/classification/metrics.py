"""Accuracy, and average precision of several labels, of many-, medium- and few-shot classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from mmpretrain.evaluation.metrics import AveragePrecision
from mmpretrain.registry import METRICS
from torch import Tensor

from ..analysis import (
    Evaluation,
    count_confusion,
    group_means,
    markdown_table,
    named_confusion,
)
from ..calibration import ClassPrior, PriorLike

GROUPS = {'head': 'many', 'body': 'medium', 'tail': 'few'}
MANY_MEDIUM_FEW = {'by': 'count', 'head': 100, 'tail': 20}
TOP_K = 5


class LongTailMetric(BaseMetric):
    """What the metrics of classification share: a prior that splits the classes by frequency.

    Args:
        class_prior: Anything that ``ClassPrior.build`` takes, counted in training images. If it
            states groups, ``dict(source=..., groups=...)`` or a file with groups, its head, body
            and tail are many, medium and few.
        result_file: Where to write the means, the values per class and the groups, as JSON.
            Default: None.
        kwargs: Arguments of mmengine's ``BaseMetric``.
    """

    def __init__(
        self, class_prior: PriorLike, result_file: Optional[str] = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.class_prior = ClassPrior.build(class_prior)
        if not self.class_prior.groups_are_given:
            self.class_prior = ClassPrior.build(self.class_prior, groups=MANY_MEDIUM_FEW)
        self.result_file = result_file

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, dataset_meta: Optional[dict]) -> None:
        """Take the data set's classes, which the prior must match; a list of images has none."""
        if dataset_meta and 'classes' in dataset_meta:
            self.class_prior.check_classes(dataset_meta['classes'])
        self._dataset_meta = dataset_meta

    @property
    def classes(self) -> list[str]:
        """Names of the classes: of the data set, else of the prior, else their indices."""
        names = (self.dataset_meta or {}).get('classes') or self.class_prior.classes
        return list(names or map(str, range(len(self.class_prior))))

    @property
    def groups(self) -> dict[str, list[int]]:
        """Class indices of ``many``, ``medium`` and ``few``."""
        return {GROUPS[name]: members for name, members in self.class_prior.groups.items()}

    def _check_scores(self, num_scores: int) -> None:
        if num_scores != len(self.class_prior):
            raise ValueError(
                f'the class prior of {type(self).__name__} has {len(self.class_prior)} classes, '
                f'but the model predicts scores of {num_scores}'
            )

    def _report(
        self,
        what: str,
        metrics: Mapping[str, float],
        per_class: Mapping[str, np.ndarray],
        confusion: Optional[np.ndarray] = None,
    ) -> None:
        """Log the means, and write them if there is a ``result_file``."""
        values = ['-' if np.isnan(value) else f'{value:.2f}' for value in metrics.values()]
        table = markdown_table(['in %', *metrics], [[what, *values]])
        print_log(f'\n{table}', MMLogger.get_current_instance())
        if self.result_file is not None:
            Evaluation(
                metrics,
                self.classes,
                self.groups,
                self.class_prior.frequencies.tolist(),
                per_class,
                None if confusion is None else named_confusion(confusion, self.groups),
            ).save(self.result_file)


@METRICS.register_module()
class LongTailAccuracy(LongTailMetric):
    """Accuracy and F1, overall and by how many training images the classes have, in per cent.

    - ``accuracy/top1`` and, of at least 5 classes, ``accuracy/top5``: over all images;
    - ``accuracy/mean``: mean over the classes of their top-1 accuracy;
    - ``accuracy/many``, ``accuracy/medium`` and ``accuracy/few``: its means over the classes with
      more than 100 training images, with 20 to 100 and with fewer, as in the tables of
      ImageNet-LT (Liu et al. 2019, "Large-Scale Long-Tailed Recognition in an Open World",
      arXiv:1904.05160); NaN if there is no such class;
    - ``accuracy/macro_f1``: mean over the classes of ``2·TP / (2·TP + FP + FN)``.

    A class without an image is left out of the accuracies, one that is not predicted either, out
    of F1.

    Args:
        class_prior: Anything that ``ClassPrior.build`` takes, counted in training images. If it
            states groups, ``dict(source=..., groups=...)`` or a file with groups, its head, body
            and tail are many, medium and few.
        result_file: Where to write the means, the values per class and the groups, as JSON.
            Default: None.
        kwargs: Arguments of mmengine's ``BaseMetric``.

    Raises:
        ValueError: If the prior has other classes than the data set or the model's scores, or an
            image has not one label that is one of the classes.
    """

    default_prefix: Optional[str] = 'accuracy'

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep of each image its label, the best class, and whether the label is in the best 5.

        Args:
            data_batch: Not used.
            data_samples: Predictions as mmpretrain's classifiers make them: ``pred_score`` (C,)
                and ``gt_label`` (1,).
        """
        scores = torch.stack([sample['pred_score'] for sample in data_samples]).float()
        labels = [sample['gt_label'].tolist() for sample in data_samples]
        self._check(scores.shape[1], labels)
        best = scores.topk(min(TOP_K, scores.shape[1])).indices.tolist()
        self.results.extend((label, top[0], label in top) for (label,), top in zip(labels, best))

    def _check(self, num_scores: int, labels: Sequence[Sequence[int]]) -> None:
        self._check_scores(num_scores)
        num_classes = len(self.class_prior)
        for label in labels:
            if len(label) != 1 or not 0 <= label[0] < num_classes:
                raise ValueError(
                    f'LongTailAccuracy is of images with one label of 0 to {num_classes - 1}, '
                    f'got the labels {label}'
                )

    def compute_metrics(self, results: list[tuple[int, int, bool]]) -> dict[str, float]:
        """Compute the metrics from what ``process`` kept of all images."""
        if not results:
            raise ValueError('LongTailAccuracy got no image: the evaluated data set is empty')
        labels, predicted, in_top = np.array(results).T
        every = range(len(self.class_prior))
        per_class = _per_class(labels, predicted, len(every))
        metrics = {
            'top1': 100 * float((labels == predicted).mean()),
            f'top{TOP_K}': 100 * float(in_top.mean()),
            **group_means(per_class['accuracy'], {'mean': every, **self.groups}),
            **group_means(per_class['f1'], {'macro_f1': every}),
        }
        if len(every) < TOP_K:
            del metrics[f'top{TOP_K}']
        confusion = count_confusion(labels, predicted, self.groups, len(every))
        self._report('accuracy', metrics, per_class, confusion)
        return metrics


@METRICS.register_module()
class LongTailAveragePrecision(LongTailMetric):
    """Average precision of images with several labels, by how many of them the classes have.

    In per cent: ``multi-label/mAP``, the mean over the classes, as of mmpretrain's
    ``AveragePrecision``; ``multi-label/many``, ``medium`` and ``few``, the means over the groups of
    :class:`LongTailAccuracy`. A class without an image has no value.

    Args:
        class_prior: As of :class:`LongTailMetric`.
        result_file: As of :class:`LongTailMetric`.
        kwargs: As of :class:`LongTailMetric`.

    Raises:
        ValueError: If the prior has other classes than the data set or the model's scores.
    """

    default_prefix: Optional[str] = 'multi-label'

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep of each image its scores, and which labels it has.

        Args:
            data_batch: Not used.
            data_samples: Predictions as mmpretrain's classifiers make them: ``pred_score`` (C,),
                and the true labels, ``gt_score`` (C,) of 0 and 1 or ``gt_label`` (T,).
        """
        for sample in data_samples:
            scores = sample['pred_score'].float().cpu()
            self._check_scores(len(scores))
            self.results.append((scores, true_labels(sample, len(scores))))

    def compute_metrics(self, results: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Compute the metrics from what ``process`` kept of all images."""
        if not results:
            raise ValueError(f'{type(self).__name__} got no image: the evaluated data set is empty')
        scores, labels = (torch.stack(column) for column in zip(*results))
        values = AveragePrecision.calculate(scores, labels, average=None)
        values = values.where((labels > 0).any(dim=0), torch.nan).numpy()
        every = range(len(self.class_prior))
        metrics = group_means(values, {'mAP': every, **self.groups})
        self._report('average precision', metrics, {'AP': values})
        return metrics


def true_labels(sample: Mapping[str, Any], num_classes: int) -> Tensor:
    """Which labels an image has: 1, 0, or -1 where that is not to be counted, shape (C,)."""
    if 'gt_score' in sample:
        return sample['gt_score'].cpu()
    return torch.zeros(num_classes).index_fill(0, sample['gt_label'].cpu(), 1)


def _per_class(
    labels: np.ndarray, predicted: np.ndarray, num_classes: int
) -> dict[str, np.ndarray]:
    """Accuracy and F1 of each class, in per cent, (C,); NaN where there is nothing to divide by."""
    right, labelled, guessed = (
        np.bincount(chosen, minlength=num_classes)
        for chosen in (labels[labels == predicted], labels, predicted)
    )
    with np.errstate(invalid='ignore'):  # 0 / 0
        return {'accuracy': 100 * right / labelled, 'f1': 200 * right / (labelled + guessed)}
