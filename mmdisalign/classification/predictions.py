"""Predictions that ``test.py --out`` saved as a pickle: evaluated, compared, drawn."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import mmcv
import numpy as np
import torch
from mmpretrain.datasets import MultiLabelDataset
from mmpretrain.registry import DATASETS
from mmpretrain.structures import DataSample
from mmpretrain.visualization import UniversalVisualizer
from torch.nn.functional import one_hot

from ..analysis import Evaluation
from ..analysis.bootstrap import ClassCounts
from ..analysis.predictions import read_predictions
from ..analysis.report import Picture
from ..calibration import PriorLike
from ..engine import only_dataset
from .metrics import GROUPS, LongTailAccuracy, LongTailAveragePrecision

SHORT_EDGE = 224  # of a drawn image, in pixels, so that there is room for the labels


class SavedPredictions:
    """The test data of an mmpretrain config, to which pickled predictions are compared.

    Args:
        dataset: Config of a data set of images with one label, or with several.
        prior: Decides the groups: anything that ``ClassPrior.build`` takes.
    """

    def __init__(self, dataset: Mapping[str, Any], prior: Optional[PriorLike]) -> None:
        if prior is None:
            raise ValueError('scores are evaluated by many, medium and few: --prior says which')
        self.dataset = DATASETS.build({**only_dataset(dataset), 'pipeline': []})
        self.several = isinstance(self.dataset, MultiLabelDataset)
        self.prior = prior

    def evaluate(self, path: Path, result_file: Path) -> Evaluation:
        """Evaluate a pickle of predictions as :class:`LongTailAccuracy` does.

        Those of several labels are evaluated as :class:`LongTailAveragePrecision` does.

        Raises:
            ValueError: If the file does not have one prediction for each image.
        """
        samples = self._read(path)
        kind = LongTailAveragePrecision if self.several else LongTailAccuracy
        metric = kind(self.prior, result_file=str(result_file))
        metric.dataset_meta = self.dataset.metainfo
        metric.process({}, samples)
        metric.evaluate(len(samples))
        return Evaluation.load(result_file)

    def judged(self, path: Path) -> ClassCounts:
        """What each image counts, for draws of the images.

        Raises:
            ValueError: If images have several labels: AP is of all of them together.
        """
        if self.several:
            raise ValueError('--intervals: not of images with several labels')
        samples, metric = self._read(path), LongTailAccuracy(self.prior)
        true = torch.cat([sample['gt_label'] for sample in samples])
        predicted = torch.stack([sample['pred_score'] for sample in samples]).argmax(dim=1)
        number = len(metric.class_prior)
        counts = [one_hot(own, number).numpy() for own in (true, predicted)]
        groups = {GROUPS[name]: own for name, own in metric.class_prior.groups.items()}
        return ClassCounts(counts[0] * counts[1], *counts, groups, 'accuracy')

    def pictures(
        self, paths: Mapping[str, Path], members: Sequence[int], count: int
    ) -> list[Picture]:
        """The images of some classes whose prediction changed, the surest changes first.

        Of images with several labels, the prediction of those classes.

        Args:
            paths: Two pickles of predictions, by name.
            members: Indices of those classes.
            count: How many images, at most.
        """
        saved = {name: self._read(path) for name, path in paths.items()}
        changes = []
        for index, pair in enumerate(zip(*saved.values())):
            change = (_labels_changed if self.several else _label_changed)(pair, members)
            if change is not None:
                changes.append((change, index))
        return [
            self._picture({name: own[index] for name, own in saved.items()})
            for _, index in heapq.nlargest(count, changes)
        ]

    def _read(self, path: Path) -> list[dict]:
        fields = ('sample_idx', 'gt_label', 'pred_score', *['pred_label'] * self.several)
        return read_predictions(path, len(self.dataset), fields)

    def _picture(self, samples: Mapping[str, Mapping]) -> Picture:
        number = next(iter(samples.values()))['sample_idx']
        info = self.dataset.get_data_info(number)
        title, image = named_image(info, number)
        # As a tensor, for an image may have no label.
        truth = DataSample().set_gt_label(torch.tensor(info['gt_label'], dtype=torch.long))
        drawn = {
            'ground truth': truth,
            **{name: self._predicted(sample) for name, sample in samples.items()},
        }
        return Picture(title, [(name, self._draw(image, own)) for name, own in drawn.items()])

    def _predicted(self, sample: Mapping[str, Any]) -> DataSample:
        scores = sample['pred_score']
        labels = sample['pred_label'] if self.several else scores.argmax()
        return DataSample().set_pred_score(scores).set_pred_label(labels)

    def _draw(self, image: np.ndarray, sample: DataSample) -> np.ndarray:
        classes = self.dataset.metainfo.get('classes')
        return UniversalVisualizer().visualize_cls(image, sample, classes, resize=SHORT_EDGE)


def named_image(info: Mapping[str, Any], number: int) -> tuple[str, np.ndarray]:
    """What to call an image, and the image, RGB.

    Args:
        info: Of the data set: the image, or its path.
        number: Of the image there.
    """
    image = info.get('img')
    if image is None:
        image = mmcv.imread(info['img_path'], channel_order='rgb')
    return Path(info['img_path']).name if 'img_path' in info else f'image {number}', image


def _label_changed(pair: Sequence[Mapping[str, Any]], members: Sequence[int]) -> Optional[float]:
    """How much surer an image of some classes became of another prediction; None of others."""
    before, after = (sample['pred_score'] for sample in pair)
    label = int(after.argmax())
    if int(pair[0]['gt_label']) not in members or label == int(before.argmax()):
        return None
    return float(after[label] - before[label])


def _labels_changed(pair: Sequence[Mapping[str, Any]], members: Sequence[int]) -> Optional[float]:
    """Likewise, by the labels of those classes that one prediction has and the other has not."""
    before, after = (set(sample['pred_label'].tolist()) for sample in pair)
    changed = [label for label in before ^ after if label in members]
    change = (pair[1]['pred_score'] - pair[0]['pred_score'])[changed].abs()
    return float(change.max()) if changed else None
