"""Predictions that ``test.py --out`` saved as label maps: evaluated, compared, drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import mmcv
import numpy as np
import torch
from mmengine.structures import PixelData
from mmseg.registry import DATASETS
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer
from PIL import Image

from ..analysis import Evaluation
from ..analysis.bootstrap import ClassCounts
from ..analysis.predictions import most_changed
from ..analysis.report import Picture
from ..calibration import PriorLike
from ..engine import only_dataset
from .count import loading_transform
from .label_maps import check_map
from .metrics import LongTailIoUMetric


class SavedPredictions:
    """The test data of an mmseg config, to which folders of label maps are compared.

    Args:
        dataset: Config of the data set.
        prior: Decides the groups: anything that ``ClassPrior.build`` takes.
    """

    def __init__(self, dataset: Mapping[str, Any], prior: Optional[PriorLike]) -> None:
        if prior is None:
            raise ValueError('label maps are evaluated by head, body and tail: --prior says which')
        config = only_dataset(dataset)
        self.dataset = DATASETS.build({**config, 'pipeline': []})
        self._load = loading_transform(config.get('pipeline') or ())
        self.prior = prior

    def evaluate(self, folder: Path, result_file: Path) -> Evaluation:
        """Evaluate a folder of label maps as :class:`LongTailIoUMetric` does.

        Raises:
            FileNotFoundError: If an image has no label map there.
            ValueError: If there is no such folder, or a map has another size than the truth.
        """
        if not folder.is_dir():
            raise ValueError(f'{folder} is no folder of label maps, as test.py --out saves them')
        metric = self._processed(folder, result_file=str(result_file))
        metric.evaluate(len(self.dataset))
        return Evaluation.load(result_file)

    def judged(self, folder: Path) -> ClassCounts:
        """What each image counts, for draws of the images."""
        metric = self._processed(folder)
        areas = (torch.stack([own[place] for own in metric.results]) for place in (0, 3, 2))
        return ClassCounts(*(own.numpy() for own in areas), metric.class_prior.groups, 'IoU')

    def _processed(self, folder: Path, **options: Any) -> LongTailIoUMetric:
        """The metric after all images."""
        metric = LongTailIoUMetric(self.prior, ignore_index=self.dataset.ignore_index, **options)
        metric.dataset_meta = self.dataset.metainfo
        for info, truth in self._truths():
            maps = {'gt_sem_seg': truth, 'pred_sem_seg': self._predicted(folder, info, truth)}
            sample = {name: {'data': torch.from_numpy(own)[None]} for name, own in maps.items()}
            metric.process({}, [sample])
        return metric

    def pictures(
        self, folders: Mapping[str, Path], members: Sequence[int], count: int
    ) -> list[Picture]:
        """The images with most pixels that changed from or to some classes, or are of them.

        Args:
            folders: Two folders of label maps, by name.
            members: Indices of those classes.
            count: How many images, at most.
        """
        images = (
            (truth, *(self._predicted(folder, info, truth) for folder in folders.values()))
            for info, truth in self._truths()
        )
        changed = most_changed(images, members, count, 'pixels')
        return [self._picture(folders, index, note) for index, note in changed]

    def _picture(self, folders: Mapping[str, Path], index: int, note: str) -> Picture:
        info, truth = self._truth(index)
        image = mmcv.imread(info['img_path'], channel_order='rgb')
        maps = {
            'ground truth': truth,
            **{name: self._predicted(folder, info, truth) for name, folder in folders.items()},
        }
        panels = [(name, self._draw(image, own)) for name, own in maps.items()]
        return Picture(f'{Path(info["img_path"]).name}: {note}', panels)

    def _draw(self, image: np.ndarray, labels: np.ndarray) -> np.ndarray:
        sample = SegDataSample(pred_sem_seg=PixelData(data=torch.from_numpy(labels)[None]))
        visualizer = SegLocalVisualizer(alpha=0.6)
        visualizer.dataset_meta = self.dataset.metainfo
        visualizer.add_datasample('', image, sample)
        return visualizer.get_image()

    def _truths(self) -> Iterator[tuple[dict, np.ndarray]]:
        return (self._truth(index) for index in range(len(self.dataset)))

    def _truth(self, index: int) -> tuple[dict, np.ndarray]:
        info = self.dataset.get_data_info(index)
        check_map(info, self._load)
        return info, self._load(info)['gt_seg_map'].astype(np.int64)

    def _predicted(self, folder: Path, info: Mapping, truth: np.ndarray) -> np.ndarray:
        path = folder / f'{Path(info["img_path"]).stem}.png'
        if not path.is_file():
            raise FileNotFoundError(
                f'{path} is missing: {folder} should hold what test.py --out saved for all '
                f'{len(self.dataset)} images of the test data'
            )
        labels = np.array(Image.open(path), dtype=np.int64)
        if labels.shape != truth.shape:
            raise ValueError(f'{path} is {labels.shape}, the ground truth {truth.shape}')
        # As mmseg writes them, so that they have the values of the annotation files.
        return labels - 1 if self.dataset.reduce_zero_label else labels
