"""What ``LongTailIoUMetric`` writes to its ``result_file``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union


@dataclass(frozen=True)
class SegmentationResult:
    """An evaluation, in per cent; None for a class that has no value.

    Attributes:
        summary: Means by name, such as ``mIoU`` and ``mTailAcc``.
        classes: Class names.
        groups: Class indices of head, body and tail.
        frequencies: Share of each class in the training data.
        iou: IoU per class.
        acc: Acc (recall) per class.
    """

    summary: Mapping[str, Optional[float]]
    classes: Sequence[str]
    groups: Mapping[str, Sequence[int]]
    frequencies: Sequence[float]
    iou: Sequence[Optional[float]]
    acc: Sequence[Optional[float]]

    @classmethod
    def load(cls, path: Union[str, Path]) -> SegmentationResult:
        """Read a result file."""
        content = json.loads(Path(path).read_text(encoding='utf-8'))
        content['iou'], content['acc'] = content.pop('IoU'), content.pop('Acc')
        return cls(**content)

    @property
    def order(self) -> list[int]:
        """Class indices from the most to the least frequent."""
        return sorted(range(len(self.classes)), key=lambda index: -self.frequencies[index])

    def group_of(self, index: int) -> str:
        """``'head'``, ``'body'`` or ``'tail'``."""
        return next(name for name, members in self.groups.items() if index in members)
