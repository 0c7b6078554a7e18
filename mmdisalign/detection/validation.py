"""The validation images of a detector: AP judges, of boxes that are predicted from scores on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from torch import nn
from torch.utils.data import DataLoader

from .. import processes
from ..analysis import partition
from ..analysis.bootstrap import means_of_groups
from ..counting.counting import leaves_of
from ..files import written_whole
from ..onepass.collect import SeededDataset, loaded, paths_of
from ..onepass.image_choice import ImageChoice, image_numbers
from ..onepass.judging import Part
from ..onepass.sample_cache import folder_of, remove_folder
from ..onepass.validation import Validation as ImageValidation
from ..progress import progress_bar
from .matched_ap import ClassMatches, match_boxes
from .metrics import LongTailLVISMetric, best_of_images, gather
from .replay import Replay, Replayer


class Validation(ImageValidation):
    """The annotated images of a detector's ``val_dataloader``.

    They are passed once, in a random order, until what is kept of them takes ``cache_size``.

    Args:
        cfg: The config.
        prior: Of the training data.
        training: The training images.
        passing: The pass over these.

    Raises:
        ValueError: If there are none that could choose; the message says why.
    """

    folder: Optional[Path] = None

    @property
    def names(self) -> Sequence[str]:
        """Of the judge's values, see :class:`Judge`."""
        return list(groups_of(self.metric))

    def _check_labels(self) -> None:
        parts = list(leaves_of(self.dataset))
        files = [getattr(part, 'ann_file', None) or '' for part in parts]
        if len(files) > 1 or not files[0].endswith('.json'):
            raise ValueError('AP is of one annotation file, in the format of LVIS or COCO')
        self.metric = LongTailLVISMetric(files[0], backend_args=parts[0].backend_args)
        self.metric.dataset_meta = self.dataset.metainfo
        if not partition(self.metric.groups):
            self.metric.class_prior = self.prior
        if not len(self.metric.ground_truth.regions['bbox']):
            raise ValueError(f'the validation images have no annotations in {files[0]}')

    def check(self, kind: type, model: nn.Module) -> None:
        """Raise ValueError if its boxes do not follow from the scores of one classifier alone."""
        Replayer(model)

    def judge(self, kind: type, model: nn.Module) -> BoxJudge:
        """Run the images through the network; what judges by the boxes that it makes.

        Args:
            kind: Of the model's collector.
            model: With one calibration, untouched.

        Raises:
            ValueError: If its boxes do not follow from the scores of one classifier alone.
        """
        replayer = Replayer(model)
        return BoxJudge(replayer, self._recorded(replayer), self.metric)

    def _recorded(self, replayer: Replayer) -> dict[int, Path]:
        """A file for each image that there is room for, by its number.

        Of several processes, each passes some of them, and has its share of the room.
        """
        number, seed = len(self.dataset), self.passing.seed
        order = np.random.default_rng(seed).permutation(number)
        choice = ImageChoice(order, np.ones(number), np.zeros(len(self.prior), int))
        identity = processes.of_first(lambda: self.passing.identity(choice, {}, self.dataset))
        self.folder = folder_of(self.passing.cache_dir, identity)
        self.passing.remove_others(self.folder)
        shares = [range(rank, number, processes.number()) for rank in range(processes.number())]
        own, room = shares[processes.rank()], self.passing.cache_size / len(shares)
        files, done, size = [self.folder / f'{place}.pth' for place in range(number)], 0, 0
        while done < len(own) and size <= room and files[own[done]].is_file():
            size, done = size + files[own[done]].stat().st_size, done + 1
        loader = DataLoader(
            SeededDataset(self.dataset, seed),
            sampler=order[own[done:]].tolist(),
            num_workers=self.passing.loader.get('num_workers', 0),
            collate_fn=pseudo_collate,
        )
        if done:
            print(f'Going on after {done:,} validation images.')
        with progress_bar() as bar:
            task = bar.add_task('Validation images', total=len(own), completed=done)
            for place, data in zip(own[done:], loaded(loader)):
                if size > room:
                    break
                with written_whole(files[place]) as partial:
                    torch.save(self._record(replayer, data), partial)
                size, done = size + files[place].stat().st_size, done + 1
                bar.update(task, completed=done)
        passed = processes.gathered((done, size))
        kept = np.concatenate([share[:done] for share, (done, _) in zip(shares, passed)])
        size = sum(size for _, size in passed)
        print(
            f'{len(kept):,} of {number:,} validation images, and all that their boxes are '
            f'predicted of: {size / 1e6:,.0f} MB in {self.folder}'
            + ('.' if len(kept) == number else ', as many as --cache-size has room for.')
        )
        numbers = image_numbers(self.dataset, order[kept]).tolist()
        return {number: files[place] for number, place in zip(numbers, kept)}

    @staticmethod
    def _record(replayer: Replayer, data: Any) -> Replay:
        try:
            return replayer.record(data)
        except FloatingPointError as error:
            raise FloatingPointError(f'{error} ({", ".join(paths_of(data))})') from None

    def remove(self) -> None:
        """Delete what is kept of the images."""
        if self.folder is not None:
            remove_folder(self.folder)


class BoxJudge:
    """Judges by AP of boxes, as :class:`LongTailLVISMetric` has it; see :class:`Judge`.

    Args:
        replayer: Of the model.
        files: What is kept of each image, by its number.
        metric: Of their annotations.
    """

    def __init__(
        self, replayer: Replayer, files: Mapping[int, Path], metric: LongTailLVISMetric
    ) -> None:
        self.replayer, self.files, self.metric = replayer, files, metric
        self.images = np.array(sorted(files))
        self.names = list(groups_of(metric))

    def __call__(self, *parts: Part) -> JudgedBoxes:
        """Judge on some of the images, see :class:`Judge`."""
        metric = self.metric
        metric.results.clear()
        for sample in self._predicted(*parts):
            metric.process(None, [sample])
        return JudgedBoxes.of(metric)

    def sampling_error(self, images: np.ndarray) -> None:
        """None: all boxes are judged."""

    def ceiling(self, images: np.ndarray) -> JudgedBoxes:
        """See :class:`Judge`: of the boxes of the classifier as it was."""
        metric = self.metric
        metric.results[:] = [
            metric.with_true_classes(
                metric.ground_truth.image_index(sample['img_id']), sample['pred_instances']
            )
            for sample in self._predicted((None, images))
        ]
        return JudgedBoxes.of(metric)

    def _predicted(self, *parts: Part) -> Iterator[dict[str, Any]]:
        """What the detector predicts of images, as metrics take it."""
        for scores, image in ((own, image) for own, images in parts for image in images.tolist()):
            made = torch.load(self.files[image], map_location='cpu', weights_only=False)
            yield {'img_id': made.image, 'pred_instances': self.replayer.predict(made, scores)}


@dataclass(frozen=True)
class JudgedBoxes:
    """Detections in I images, matched to annotations; see :class:`Judged`.

    Attributes:
        matches: Of each class; the images are in the order of the annotation file.
        order: Positions of those among the images that are judged, shape (I,).
        groups: Indices of the classes that each value is of, by name.
    """

    matches: Sequence[ClassMatches]
    order: np.ndarray
    groups: Mapping[str, Sequence[int]]

    @classmethod
    def of(cls, metric: LongTailLVISMetric) -> JudgedBoxes:
        """Of the images that a metric has processed."""
        files = np.array([result['image'] for result in metric.results])
        order = np.argsort(files)
        results = [metric.results[place] for place in order]
        detections = gather(results, 'bbox', best_of_images(results, 'bbox'))
        classes = metric.categories.tolist()
        matches = match_boxes(metric.ground_truth, detections, files[order], classes)
        return cls(list(matches), order, groups_of(metric))

    def values(self, times: np.ndarray) -> dict[str, np.ndarray]:
        """AP of draws of the images, see :class:`Judged`."""
        times = times[:, self.order]
        ap = 100 * np.stack([own.ap(times) for own in self.matches], axis=1)
        return means_of_groups(ap, self.groups)


def groups_of(metric: LongTailLVISMetric) -> dict[str, Sequence[int]]:
    """Which classes each value is of, by name."""
    groups = {f'AP{name}': members for name, members in partition(metric.groups).items()}
    return {'AP': range(len(metric.classes)), **groups}
