"""Compare second-stage methods on labelled images: half of them choose, the others report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Optional

import numpy as np
from torch import nn

from ..analysis import markdown_table
from .fitting import Samples
from .judging import Judged, interval_of_difference, judge, values_of
from .methods import Problem, method_named
from .processes import agreed

MOST_TO_CHOOSE = 30_000  # samples that each fit takes whose value is only tried


@dataclass(frozen=True)
class Row:
    """What a method came to on the images that report.

    Attributes:
        method: Its name; None of the classifier as it was.
        value: Of its one number, the best on the images that choose.
        values: Means in per cent, see :func:`values_of`.
        gains: The 95 % interval of what each gained.
        chosen_by: What decided, on the images that choose.
        seconds: What its fits took.
        folds: Whether it folds into the classifier.
        refused: Why it has no meaning here, and then nothing else is known.
    """

    method: Optional[str]
    value: Optional[float] = None
    values: Optional[Mapping[str, float]] = None
    gains: Optional[Mapping[str, tuple[float, float]]] = None
    chosen_by: Optional[float] = None
    seconds: float = 0.0
    folds: bool = True
    refused: Optional[str] = None


class Comparison:
    """Methods that are fitted to samples of training images, and judged by others.

    Args:
        problem: What is fitted to.
        judged: Samples of the images that judge.
        kind: ``'accuracy'`` or ``'IoU'``, see :func:`values_of`.
        metric: What decides, a key of :func:`values_of`.
        seed: Decides which images choose, and what is left out of a fit that is only tried.
        split: Whether half of the images choose and the others report; else all do both.

    Attributes:
        fitted: What each method made, by its name.
    """

    def __init__(
        self,
        problem: Problem,
        judged: Samples,
        *,
        kind: str,
        metric: str,
        seed: int = 0,
        split: bool = True,
    ) -> None:
        self.problem, self.judged = problem, judged
        self.kind, self.metric, self.seed = kind, metric, seed
        rng = np.random.default_rng(seed)
        images = np.unique(judged.image)
        if len(images) < 2 and split:
            raise ValueError(
                f'{len(images)} labelled images cannot choose and report: name more, or leave the '
                'choice out'
            )
        chooses = np.isin(judged.image, rng.permutation(images)[: (len(images) + 1) // 2])
        every = np.arange(len(judged))
        self.choosing, self.reporting = (
            (np.flatnonzero(chooses), np.flatnonzero(~chooses)) if split else (every, every)
        )
        self.num_images = tuple(
            len(np.unique(judged.image[own])) for own in (self.choosing, self.reporting)
        )
        few = min(len(problem.chosen), MOST_TO_CHOOSE)
        self._few = replace(
            problem, chosen=np.sort(rng.choice(problem.chosen, few, replace=False)), fits=[]
        )
        self.fitted: dict[str, nn.Module] = {}
        self._before = judge(None, judged, self.reporting)

    def before(self) -> Row:
        """The classifier as it was."""
        first = self._values(judge(None, self.judged, self.choosing))
        return Row(None, values=self._values(self._before), chosen_by=first[self.metric])

    def row(self, method: str, values: Optional[Sequence[float]] = None) -> Row:
        """Fit a method, with the best of its values.

        Args:
            method: Its name.
            values: What to try of its number. Default: None, what the method says.
        """
        start, module = time.monotonic(), method_named(method)
        values = module.VALUES if values is None else values
        try:
            found = agreed({value: self._tried(module, value) for value in values})
            best = max(found, key=found.get)
            scores = self.fitted[method] = module.fit(self.problem, best)
        except ValueError as error:
            return Row(method, refused=str(error))
        after = judge(scores, self.judged, self.reporting)
        prior = self.problem.prior
        return Row(
            method,
            best if module.PARAMETER else None,
            self._values(after),
            interval_of_difference(self._before, after, prior, self.kind, self.seed),
            found[best],
            time.monotonic() - start,
            hasattr(scores, 'folded'),
        )

    def _tried(self, module: Any, value: float) -> float:
        """The metric on the images that choose, of a fit to some of the samples."""
        scores = module.fit(self._few, value)
        return self._values(judge(scores, self.judged, self.choosing))[self.metric]

    def _values(self, judged: Judged) -> dict[str, float]:
        return values_of(judged, self.problem.prior, self.kind)


def best_of(rows: Sequence[Row]) -> Row:
    """The row whose method did best on the images that choose, which may be the first, of none."""
    return max((row for row in rows if row.refused is None), key=lambda row: row.chosen_by)


def table_of(rows: Sequence[Row], metric: str) -> str:
    """The rows, and why methods that are not among them were refused."""
    shown = [row for row in rows if row.refused is None]
    keys = list(shown[0].values)
    header = ['', 'number', *keys, f'gain in {metric}, 95 %', 'seconds', 'folds']
    cells = [
        [
            row.method or 'as it was',
            '' if row.value is None else f'{row.value:g}',
            *(f'{row.values[key]:.2f}' for key in keys),
            '' if row.gains is None else '{:+.2f} to {:+.2f}'.format(*row.gains[metric]),
            '' if row.method is None else f'{row.seconds:.1f}',
            'yes' if row.folds else 'no',
        ]
        for row in shown
    ]
    refused = [row.refused for row in rows if row.refused is not None]
    return '\n'.join([markdown_table(header, cells), *([''] if refused else []), *refused])


def verdict_of(row: Row, metric: str, tail: str) -> str:
    """What the intervals of the best row show, in a sentence."""
    if row.method is None:
        return 'No method did better than the classifier as it was on the images that choose.'
    shown = []
    for key in dict.fromkeys((metric, tail)):
        low, high = row.gains[key]
        sure = 'gains' if low > 0 else 'loses' if high < 0 else 'shows nothing'
        shown.append(f'{key} {sure} ({low:+.2f} to {high:+.2f})')
    return f'{row.method}: {", ".join(shown)}.'


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows for a JSON file."""
    return [asdict(row) for row in rows]
