"""Where the gate σ(x) of a classifier closes: labels of its images, and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor

from ..analysis import Picture
from ..onepass.confidence import Seen, Viewer
from .predictions import named_image


class GateViewer(Viewer):
    """Of images with one label or several: of several, the one that scored highest if it is one."""

    unit = 'images'

    def begin(self, index: int, batch: Mapping[str, Any]) -> None:
        """Take the labels of the image that follows."""
        (sample,) = batch['data_samples']
        labels = sample.get('gt_label')
        self._index, self._labels = index, [] if labels is None else labels.flatten().tolist()

    def labels(self, classes: Tensor) -> Optional[Tensor]:
        """True class of each row, of the one image or of its parts."""
        if not self._labels:
            return None
        own = torch.full_like(classes, self._labels[0])
        is_right = torch.isin(classes, torch.tensor(self._labels).to(classes))
        return torch.where(is_right, classes, own)

    def keep(self, seen: Seen) -> Any:
        """The index of the image, and what it was taken for."""
        return self._index, int(seen.before.flatten()[0])

    def picture(self, kept: tuple[int, int], note: str) -> Picture:
        """The image, with its label and what stage 1 takes it for."""
        index, predicted = kept
        info = self.dataset.get_data_info(index)
        name, image = named_image(info, index)
        classes = self.dataset.metainfo.get('classes') or {}
        truth = ', '.join(self._name(classes, own) for own in np.ravel(info['gt_label']))
        caption = f'{truth or "no label"}; for stage 1, {self._name(classes, predicted)}'
        return Picture(f'{name}: {note}', [(caption, image)])

    @staticmethod
    def _name(classes: Any, label: int) -> str:
        return str(classes[label]) if label < len(classes) else f'class {label}'
