"""Predictions that ``test.py --out`` saved as a pickle: evaluated, compared, drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, Union

import mmcv
import numpy as np
import torch
from mmdet.datasets import CocoDataset, CocoPanopticDataset
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData, PixelData
from pycocotools import mask as mask_utils

from ..analysis import Evaluation
from ..analysis.bootstrap import Judged
from ..analysis.predictions import most_changed, read_predictions
from ..analysis.report import Picture
from ..calibration import PriorLike
from ..engine import only_dataset
from .matching import best_detections, boxes_of
from .metrics import LongTailLVISMetric
from .panoptic_metric import LongTailPanopticMetric, panoptic_map
from .panoptic_quality import Segments
from .validation import JudgedBoxes


class SavedPredictions:
    """The test data of an mmdet config, to which pickled predictions are compared.

    Args:
        dataset: Config of a data set with an annotation file of COCO's or LVIS's format.
        prior: Decides head, body and tail, where the file does not say which classes are rare.

    Raises:
        ValueError: If it is a data set of another format.
    """

    def __new__(
        cls, dataset: Mapping[str, Any], prior: Optional[PriorLike]
    ) -> Union[SavedDetections, SavedSegments]:
        built = DATASETS.build({**only_dataset(dataset), 'pipeline': []})
        if not isinstance(built, CocoDataset):
            raise ValueError(
                "predictions are evaluated on annotation files of COCO's or LVIS's format, not on "
                f'a {type(built).__name__}'
            )
        kind = SavedSegments if isinstance(built, CocoPanopticDataset) else SavedDetections
        return kind(built, prior)


class SavedDetections:
    """The test data of a detector, or of one that predicts masks.

    Args:
        dataset: With an annotation file of COCO's or LVIS's format.
        prior: As of :class:`SavedPredictions`.
    """

    def __init__(self, dataset: CocoDataset, prior: Optional[PriorLike]) -> None:
        self.dataset, self.prior = dataset, prior

    def evaluate(self, path: Path, result_file: Path) -> Evaluation:
        """Evaluate a pickle of detections as :class:`LongTailLVISMetric` does.

        Raises:
            ValueError: If the file does not have one prediction for each image.
        """
        samples = self._read(path)
        metric = LongTailLVISMetric(
            self.dataset.ann_file,
            ['bbox', 'segm'] if self._has_masks(samples) else 'bbox',
            class_prior=self.prior,
            result_file=str(result_file),
        )
        metric.dataset_meta = self.dataset.metainfo
        metric.process({}, samples)
        if not metric.evaluate(len(samples)):
            raise ValueError(f'{path} has no detection')
        return Evaluation.load(result_file)

    def judged(self, path: Path) -> JudgedBoxes:
        """What is found in each image, for draws of the images: boxes, not masks."""
        metric = LongTailLVISMetric(self.dataset.ann_file, class_prior=self.prior)
        metric.dataset_meta = self.dataset.metainfo
        metric.process({}, self._read(path))
        return JudgedBoxes.of(metric)

    def pictures(
        self, paths: Mapping[str, Path], members: Sequence[int], count: int
    ) -> list[Picture]:
        """The images with most instances whose best detection changed from or to some classes.

        Args:
            paths: Two pickles of detections, by name.
            members: Labels of those classes.
            count: How many images, at most.
        """
        samples = {name: self._by_image(path) for name, path in paths.items()}
        infos = (self.dataset.get_data_info(index) for index in range(len(self.dataset)))
        images = (
            (
                np.array([instance['bbox_label'] for instance in info['instances']], dtype=int),
                *(self._labels(info, own[info['img_id']]) for own in samples.values()),
            )
            for info in infos
        )
        changed = most_changed(images, members, count, 'instances')
        return [self._picture(samples, index, note) for index, note in changed]

    def _read(self, path: Path) -> list[dict]:
        """The predictions of a file, one for each image of the data set."""
        return read_samples(path, self.dataset, 'pred_instances')

    def _has_masks(self, samples: Sequence[Mapping]) -> bool:
        """Whether there are masks to evaluate, and true ones to compare them with."""
        infos = (self.dataset.get_data_info(index) for index in range(len(self.dataset)))
        return all('masks' in sample['pred_instances'] for sample in samples) and all(
            'mask' in instance for info in infos for instance in info['instances']
        )

    def _by_image(self, path: Path) -> dict[int, dict]:
        samples = self._read(path)
        return {sample['img_id']: sample['pred_instances'] for sample in samples}

    def _labels(self, info: Mapping, predicted: Mapping) -> np.ndarray:
        """Label of the best detection on each instance, -1 without one, shape (T,)."""
        boxes = torch.tensor([instance['bbox'] for instance in info['instances']]).reshape(-1, 4)
        best = best_detections(boxes, boxes_of(predicted), predicted['scores']).numpy()
        return np.append(predicted['labels'].numpy(), -1)[best]

    def _picture(self, samples: Mapping[str, Mapping[int, dict]], index: int, note: str) -> Picture:
        info = self.dataset.get_data_info(index)
        image = mmcv.imread(info['img_path'], channel_order='rgb')
        drawn = {
            'ground truth': self._truth(info, image.shape[:2]),
            **{n: _predicted(own[info['img_id']], image.shape) for n, own in samples.items()},
        }
        panels = [(name, self._draw(image, instances)) for name, instances in drawn.items()]
        return Picture(f'{Path(info["img_path"]).name}: {note}', panels)

    def _truth(self, info: dict, size: tuple[int, int]) -> InstanceData:
        masks = all('mask' in instance for instance in info['instances'])
        loaded = LoadAnnotations(with_mask=masks)({**info, 'ori_shape': size})
        truth = InstanceData(
            bboxes=loaded['gt_bboxes'].tensor, labels=torch.from_numpy(loaded['gt_bboxes_labels'])
        )
        if masks:
            truth.masks = loaded['gt_masks'].to_tensor(torch.uint8, 'cpu')
        return truth

    def _draw(self, image: np.ndarray, instances: InstanceData) -> np.ndarray:
        # Below a score of 0.3, mmdet's default, a detection is not drawn.
        if 'scores' in instances:
            instances = instances[instances.scores > 0.3]
        visualizer = DetLocalVisualizer()
        visualizer.dataset_meta = self.dataset.metainfo
        visualizer.add_datasample('', image, DetDataSample(gt_instances=instances), draw_pred=False)
        return visualizer.get_image()


class SavedSegments:
    """The test data of a panoptic segmentor.

    Args:
        dataset: With an annotation file of COCO's panoptic format.
        prior: As of :class:`SavedPredictions`.
    """

    def __init__(self, dataset: CocoPanopticDataset, prior: Optional[PriorLike]) -> None:
        self.dataset, self.prior = dataset, prior

    def evaluate(self, path: Path, result_file: Path) -> Evaluation:
        """Evaluate a pickle of panoptic maps as :class:`LongTailPanopticMetric` does.

        Raises:
            ValueError: If the file does not have one prediction for each image.
        """
        samples = read_samples(path, self.dataset, 'pred_panoptic_seg')
        metric = self._metric(str(result_file))
        metric.process({}, samples)
        metric.evaluate(len(samples))
        return Evaluation.load(result_file)

    def judged(self, path: Path) -> Judged:
        """Raise ValueError: PQ of draws of the images is not built."""
        raise ValueError('--intervals: not of panoptic data')

    def pictures(
        self, paths: Mapping[str, Path], members: Sequence[int], count: int
    ) -> list[Picture]:
        """The images with most pixels that changed from or to some classes, or are of them.

        Args:
            paths: Two pickles of panoptic maps, by name.
            members: Labels of those classes.
            count: How many images, at most.
        """
        truth = self._metric(None).ground_truth
        maps = {name: self._maps(path, truth.is_thing) for name, path in paths.items()}
        infos = [self.dataset.get_data_info(index) for index in range(len(self.dataset))]
        images = (
            (
                truth.segments(own['img_id']).labels,
                *(m[own['img_id']].labels for m in maps.values()),
            )
            for own in infos
        )
        changed = most_changed(images, members, count, 'pixels')
        pictures = []
        for index, note in changed:
            number, path = infos[index]['img_id'], infos[index]['img_path']
            drawn = {
                'ground truth': truth.segments(number),
                **{n: m[number] for n, m in maps.items()},
            }
            image = mmcv.imread(path, channel_order='rgb')
            panels = [(name, self._draw(image, own)) for name, own in drawn.items()]
            pictures.append(Picture(f'{Path(path).name}: {note}', panels))
        return pictures

    def _maps(self, path: Path, is_thing: np.ndarray) -> dict[int, Segments]:
        """The predicted segments of each image, by its id."""
        samples = read_samples(path, self.dataset, 'pred_panoptic_seg')
        return {own['img_id']: Segments.predicted(panoptic_map(own), is_thing) for own in samples}

    def _draw(self, image: np.ndarray, segments: Segments) -> np.ndarray:
        if not len(segments.label):  # which mmdet does not draw
            return image
        # As mmdet predicts them, each with a number of its own.
        ids = segments.label + INSTANCE_OFFSET * np.arange(len(segments.label))
        ids = np.append(ids, len(self.dataset.metainfo['classes']))[segments.index]
        sample = DetDataSample(pred_panoptic_seg=PixelData(sem_seg=torch.from_numpy(ids)[None]))
        visualizer = DetLocalVisualizer()
        visualizer.dataset_meta = self.dataset.metainfo
        visualizer.add_datasample('', image, sample, draw_gt=False)
        return visualizer.get_image()

    def _metric(self, result_file: Optional[str]) -> LongTailPanopticMetric:
        metric = LongTailPanopticMetric(
            self.dataset.ann_file,
            self.dataset.data_prefix['seg'],
            class_prior=self.prior,
            result_file=result_file,
        )
        metric.dataset_meta = self.dataset.metainfo
        return metric


def read_samples(path: Path, dataset: CocoDataset, field: str) -> list[dict]:
    """The predictions of a file, one for each image of the data set.

    Args:
        path: Pickle.
        dataset: The test data.
        field: What each has, such as ``'pred_instances'``.

    Raises:
        ValueError: If the file has no such predictions.
    """
    samples = read_predictions(path, len(dataset), ('img_id', field))
    known = {dataset.get_data_info(i)['img_id'] for i in range(len(dataset))}
    other = [sample['img_id'] for sample in samples if sample['img_id'] not in known]
    if other:
        raise ValueError(f'{path} is of other images than the test data: {other[0]} is none')
    return samples


def _predicted(predicted: Mapping, shape: tuple[int, ...]) -> InstanceData:
    instances = InstanceData(**{name: predicted[name] for name in ('bboxes', 'labels', 'scores')})
    if 'masks' in predicted:
        dense = [mask_utils.decode(rle) for rle in predicted['masks']]
        instances.masks = torch.from_numpy(np.stack(dense)) if dense else torch.zeros(0, *shape[:2])
    return instances
