"""Class frequencies: the one currency in which every loss, head and metric takes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional, Union

import numpy as np

from ..files import written_whole
from .groups import Groups, groups_by_share, resolve_groups
from .readers import Table, read_table

PriorLike = Union['ClassPrior', Mapping, Sequence[float], np.ndarray, str, Path]


class ClassPrior:
    """How often each class occurs in the training data, and which classes are head, body and tail.

    Args:
        counts: Count or ratio of each class, shape (C,), in class order; at least 0, not all 0.
        classes: Class names in the same order, or None where the source knows none.
        groups: How to split the classes, see :func:`mmdisalign.calibration.groups.resolve_groups`;
            a rule with ``unit='images'`` goes by ``images`` and not by ``counts``. Default: None,
            by cumulative share.
        images: Number of images of each class, shape (C,), or None where the source does not know.

    Attributes:
        counts: float64 array (C,), in the unit of the source (pixels, instances, images, a ratio).
        frequencies: ``counts`` scaled to the sum 1.
        classes: Class names, or None.
        groups: ``{'head': [...], 'body': [...], 'tail': [...]}``, class indices.
        groups_are_given: Whether the source or the caller said what they are.
    """

    def __init__(
        self,
        counts: Sequence[float],
        classes: Optional[Sequence[str]] = None,
        groups: Optional[Mapping] = None,
        images: Optional[Sequence[float]] = None,
    ) -> None:
        self.counts = _checked_counts(counts)
        self.images = None if images is None else _checked_counts(images)
        self.classes = None if classes is None else tuple(str(name) for name in classes)
        if self.classes is not None and len(self.classes) != len(self):
            raise ValueError(f'{len(self)} counts, but {len(self.classes)} class names')
        self.frequencies = self.counts / self.counts.sum()
        self.groups_are_given = groups is not None
        self.groups: Groups = (
            resolve_groups(*self._by_unit(groups), self.classes)
            if self.groups_are_given
            else groups_by_share(self.frequencies)
        )

    @classmethod
    def build(
        cls,
        source: PriorLike,
        *,
        num_classes: Optional[int] = None,
        groups: Optional[Mapping] = None,
        **reader_options: str,
    ) -> ClassPrior:
        """Build a prior from whatever a config can hold.

        Args:
            source: A ClassPrior; counts as a list, an array or a dict from class name to count; a
                dict of this method's own arguments, ``dict(source=..., groups=...)``; the path of a
                JSON, CSV, TXT, COCO or LVIS annotation file; or the name of a shipped table,
                ``'ade20k'``, ``'lvis_v1'`` or ``'lvis_v0.5'``. The formats are in
                :mod:`mmdisalign.calibration.readers`.
            num_classes: Raise ValueError if the source has another number of classes.
            groups: Replaces the source's own split into head, body and tail.
            reader_options: ``column`` of a table, ``unit`` ('instances', the default, or 'images')
                of an LVIS table or an annotation file.
        """
        if isinstance(source, Mapping) and 'source' in source:
            options = {'groups': groups, **reader_options, **source}
            return cls.build(options.pop('source'), num_classes=num_classes, **options)
        prior = cls._from_source(source, groups, reader_options)
        if num_classes is not None and len(prior) != num_classes:
            where = f' ({source})' if isinstance(source, (str, Path)) else ''
            raise ValueError(
                f'the class prior{where} has {len(prior)} classes, but the model has '
                f'{num_classes}; give it a prior that was counted on the same classes'
            )
        return prior

    @classmethod
    def _from_source(
        cls, source: PriorLike, groups: Optional[Mapping], reader_options: Mapping[str, str]
    ) -> ClassPrior:
        if isinstance(source, ClassPrior):
            return (
                source
                if groups is None
                else cls(source.counts, source.classes, groups, source.images)
            )
        if isinstance(source, (str, Path)):
            table = read_table(source, **reader_options)
        elif reader_options:
            raise TypeError(f'{sorted(reader_options)} only apply to files, not to {type(source)}')
        elif isinstance(source, Mapping):
            table = Table.from_mapping(source)
        else:
            table = Table(source)
        groups = table.groups if groups is None else groups
        return cls(table.counts, table.classes, groups, table.images)

    def _by_unit(self, groups: Mapping) -> tuple[Mapping, np.ndarray]:
        """A split without its unit, and the counts in that unit."""
        options = dict(groups)
        unit = options.pop('unit', None)
        if unit is None:
            return groups, self.counts
        if unit != 'images':
            raise ValueError(f"the unit of groups is 'images' or left out, got {unit!r}")
        if self.images is None:
            raise ValueError('groups by images need image counts, which the class prior has not')
        return options, self.images

    @property
    def numbers(self) -> np.ndarray:
        """Images of each class or, where these are not known, its count, shape (C,)."""
        return self.counts if self.images is None else self.images

    def __len__(self) -> int:
        return len(self.counts)

    def __repr__(self) -> str:
        sizes = ', '.join(f'{len(members)} {name}' for name, members in self.groups.items())
        return f'ClassPrior({len(self)} classes: {sizes}; imbalance {self.imbalance:.4g})'

    @property
    def imbalance(self) -> float:
        """Most frequent over least frequent class; infinite where a class was never seen."""
        least = self.counts.min()
        return float('inf') if least == 0 else float(self.counts.max() / least)

    def name_of(self, index: int) -> str:
        """How to call a class in a message."""
        return f'class {index}' if self.classes is None else f'{self.classes[index]} ({index})'

    def first(self, number: int) -> ClassPrior:
        """The prior of the first classes alone, in the groups that they have among all."""
        parts = (self.counts, self.classes, self.images)
        counts, classes, images = (None if part is None else part[:number] for part in parts)
        groups = {
            name: [index for index in members if index < number]
            for name, members in self.groups.items()
        }
        return ClassPrior(counts, classes, groups, images)

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise ValueError if a data set's classes cannot be those of this prior.

        Names that differ are let pass, since sources spell them differently; the same names in
        another order are certainly a mistake.
        """
        if len(classes) != len(self):
            raise ValueError(
                f'the class prior has {len(self)} classes, but the data set has {len(classes)}'
            )
        if self.classes is None or tuple(classes) == self.classes:
            return
        if sorted(classes) == sorted(self.classes):
            moved = [name for name, own in zip(classes, self.classes) if name != own]
            raise ValueError(
                "the class prior has the data set's classes in another order: "
                f'{moved[0]} is class {self.classes.index(moved[0])} of the prior, but class '
                f'{list(classes).index(moved[0])} of the data set'
            )

    def to_json(self, path: Union[str, Path]) -> None:
        """Write the prior as JSON that :meth:`build` reads."""
        content = {
            'classes': None if self.classes is None else list(self.classes),
            'counts': self.counts.tolist(),
            'groups': self.groups if self.groups_are_given else None,
            'images': None if self.images is None else self.images.tolist(),
        }
        with written_whole(path) as file:
            file.write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')


def _checked_counts(counts: Sequence[float]) -> np.ndarray:
    array = np.asarray(counts, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f'class counts must be one number per class, got shape {array.shape}')
    bad = np.flatnonzero(~np.isfinite(array) | (array < 0))
    if bad.size:
        raise ValueError(f'the count of class {bad[0]} is {array[bad[0]]}; counts are at least 0')
    if not array.any():
        raise ValueError('all class counts are 0')
    return array
