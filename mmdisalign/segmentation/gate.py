"""Where the gate σ(x) of a segmentor closes: true classes of the head's positions, and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import mmcv
import numpy as np
from torch import Tensor
from torch.nn.functional import interpolate

from ..analysis import Picture
from ..analysis.drawing import MARKS, draw_marks, draw_sigma
from ..onepass.confidence import Seen, Viewer
from .collect import padded_labels

IGNORED = 255  # in label maps; whatever is no class is
EFFECTS = ('where that would be wrong', 'where right')


class GateViewer(Viewer):
    """Of a head that scores a map of the whole image; of windows, points and queries, nothing.

    The gate is where the head works, so a position has one σ and, as its true class, that of the
    pixel at its centre.
    """

    unit = 'positions'

    def begin(self, index: int, batch: Mapping[str, Any]) -> None:
        """Take the true classes of the image that follows, if the test pipeline loads them."""
        (sample,) = batch['data_samples']
        self._index, self._labels = index, None
        # The share of the height and of the width that is not padding.
        size, own = batch['inputs'].shape[2:], sample.img_shape
        self._part = tuple(min(1.0, a / b) for a, b in zip(own, size))
        if 'gt_sem_seg' in sample:
            labels = padded_labels(sample.gt_sem_seg.data, batch, IGNORED)
            self._labels = labels.to(batch['inputs'].device)[None]

    def labels(self, classes: Tensor) -> Optional[Tensor]:
        """True class of each position, (1, h, w)."""
        if self._labels is None or not self._is_map(classes):
            return None
        return interpolate(self._labels.float(), classes.shape[1:], mode='nearest-exact')[0].long()

    def keep(self, seen: Seen) -> Any:
        """σ, and which positions it kept right and wrong, of the part that is not padding."""
        if not self._is_map(seen.before):
            return None
        maps = [seen.sigma.float(), *(() if seen.labels is None else (seen.saved, seen.lost))]
        height, width = (
            max(1, round(part * size)) for part, size in zip(self._part, seen.before.shape[1:])
        )
        return self._index, [each[0, :height, :width].cpu().numpy() for each in maps]

    def picture(self, kept: tuple[int, list[np.ndarray]], note: str) -> Picture:
        """The image, its σ, and where σ = 1 would have changed for worse or better."""
        index, (sigma, *effect) = kept
        path = self.dataset.get_data_info(index)['img_path']
        image = mmcv.imread(path, channel_order='rgb')
        panels = [('image', image), ('σ(x)', draw_sigma(sigma, image.shape[:2]))]
        if effect:
            colours = ', '.join(f'{name} {end}' for (name, _), end in zip(MARKS, EFFECTS))
            panels.append((f'another class if σ = 1: {colours}', draw_marks(image, effect)))
        return Picture(f'{Path(path).name}: {note}', panels)

    def _is_map(self, classes: Tensor) -> bool:
        return classes.dim() == 3 and self.model.test_cfg.get('mode', 'whole') == 'whole'
