"""What the metrics write to their ``result_file``, and figures and tables are made of."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional, Union

import numpy as np

Values = Sequence[Optional[float]]


@dataclass(frozen=True)
class Evaluation:
    """An evaluation, in per cent; None, or NaN, where there is no value.

    Attributes:
        summary: Means by name, such as ``mIoU`` or ``bbox_APr``.
        classes: Names of the C classes.
        groups: Class indices of each frequency group, such as ``head`` or ``r``.
        frequencies: Share of each class in the training data, (C,); None if unknown.
        per_class: Values by name, such as ``IoU`` or ``bbox_AP``, each of shape (C,).
    """

    summary: Mapping[str, Optional[float]]
    classes: Sequence[str]
    groups: Mapping[str, Sequence[int]]
    frequencies: Optional[Sequence[float]]
    per_class: Mapping[str, Values]

    @classmethod
    def load(cls, path: Union[str, Path]) -> Evaluation:
        """Read a result file.

        Raises:
            ValueError: If the file is not one.
        """
        try:
            return cls(**json.loads(Path(path).read_text(encoding='utf-8')))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f'{path} is not a result file of a metric of mmdisalign ({error})'
            ) from None

    def save(self, path: Union[str, Path]) -> None:
        """Write a result file."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = asdict(self)
        content['summary'] = {key: _number(value) for key, value in self.summary.items()}
        content['per_class'] = {
            key: [_number(value) for value in values] for key, values in self.per_class.items()
        }
        path.write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')

    @property
    def order(self) -> list[int]:
        """Class indices from the most to the least frequent; the given order if that is unknown."""
        shares = self.frequencies or [0.0] * len(self.classes)
        return sorted(range(len(self.classes)), key=lambda index: -shares[index])

    def group_of(self, index: int) -> str:
        """Name of the first group that has a class; ``'-'`` if none has."""
        return next((name for name, members in self.groups.items() if index in members), '-')


def group_means(values: Values, groups: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Mean of a per-class value over each group; NaN, for a class that does not occur, is left out.

    Args:
        values: One value per class, shape (C,).
        groups: Class indices by group name.
    """
    values = np.asarray(values, dtype=np.float64)
    means = {}
    for name, members in groups.items():
        known = values[list(members)]
        known = known[~np.isnan(known)]
        means[name] = float(known.mean()) if known.size else float('nan')
    return means


def _number(value: Optional[float]) -> Optional[float]:
    """A number that JSON can hold; it has no NaN."""
    return None if value is None or math.isnan(value) else round(float(value), 4)
