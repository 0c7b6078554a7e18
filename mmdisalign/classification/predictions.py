"""Predictions that ``test.py --out`` saved as a pickle: evaluated, compared, drawn."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import mmcv
import numpy as np
from mmpretrain.registry import DATASETS
from mmpretrain.structures import DataSample
from mmpretrain.visualization import UniversalVisualizer

from ..analysis import Evaluation
from ..analysis.predictions import read_predictions
from ..analysis.report import Picture
from ..calibration import PriorLike
from ..engine import only_dataset
from .metrics import LongTailAccuracy

SHORT_EDGE = 224  # of a drawn image, in pixels, so that there is room for the labels


class SavedPredictions:
    """The test data of an mmpretrain config, to which pickled predictions are compared.

    Args:
        dataset: Config of a data set of images with one label.
        prior: Decides the groups: anything that ``ClassPrior.build`` takes.
    """

    def __init__(self, dataset: Mapping[str, Any], prior: Optional[PriorLike]) -> None:
        if prior is None:
            raise ValueError('scores are evaluated by many, medium and few: --prior says which')
        self.dataset = DATASETS.build({**only_dataset(dataset), 'pipeline': []})
        self.prior = prior

    def evaluate(self, path: Path, result_file: Path) -> Evaluation:
        """Evaluate a pickle of predictions as :class:`LongTailAccuracy` does.

        Raises:
            ValueError: If the file does not have one prediction for each image.
        """
        samples = self._read(path)
        metric = LongTailAccuracy(self.prior, result_file=str(result_file))
        metric.dataset_meta = self.dataset.metainfo
        metric.process({}, samples)
        metric.evaluate(len(samples))
        return Evaluation.load(result_file)

    def pictures(
        self, paths: Mapping[str, Path], members: Sequence[int], count: int
    ) -> list[Picture]:
        """The images of some classes whose prediction changed, the surest changes first.

        Args:
            paths: Two pickles of predictions, by name.
            members: Indices of those classes.
            count: How many images, at most.
        """
        saved = {name: self._read(path) for name, path in paths.items()}
        changes = []
        for index, pair in enumerate(zip(*saved.values())):
            scores = [sample['pred_score'] for sample in pair]
            truth, labels = int(pair[0]['gt_label']), [int(score.argmax()) for score in scores]
            if truth in members and labels[0] != labels[1]:
                changes.append((float(scores[1][labels[1]] - scores[0][labels[1]]), index))
        return [
            self._picture({name: own[index] for name, own in saved.items()})
            for _, index in heapq.nlargest(count, changes)
        ]

    def _read(self, path: Path) -> list[dict]:
        fields = ('sample_idx', 'gt_label', 'pred_score')
        return read_predictions(path, len(self.dataset), fields)

    def _picture(self, samples: Mapping[str, Mapping]) -> Picture:
        number = next(iter(samples.values()))['sample_idx']
        info = self.dataset.get_data_info(number)
        image = info.get('img')
        if image is None:
            image = mmcv.imread(info['img_path'], channel_order='rgb')
        truth = DataSample().set_gt_label(info['gt_label'])
        drawn = {
            'ground truth': truth,
            **{n: DataSample().set_pred_score(s['pred_score']) for n, s in samples.items()},
        }
        title = Path(info['img_path']).name if 'img_path' in info else f'image {number}'
        return Picture(title, [(name, self._draw(image, own)) for name, own in drawn.items()])

    def _draw(self, image: np.ndarray, sample: DataSample) -> np.ndarray:
        if 'pred_score' in sample:
            sample.set_pred_label(sample.pred_score.argmax())
        classes = self.dataset.metainfo.get('classes')
        return UniversalVisualizer().visualize_cls(image, sample, classes, resize=SHORT_EDGE)
