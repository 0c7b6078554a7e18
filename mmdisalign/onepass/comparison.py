"""Compare second-stage methods on labelled images: half of them choose, the others report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Optional

import numpy as np
from torch import nn

from ..analysis import markdown_table
from .judging import Judge, draws_of, intervals_of_difference, once
from .methods import Problem, method_named

MOST_TO_CHOOSE = 30_000  # samples that each fit takes whose value is only tried


@dataclass(frozen=True)
class Row:
    """What a method came to on the images that report.

    Attributes:
        method: Its name; None of the classifier as it was.
        value: Of its one number, the best on the images that choose.
        values: Means in per cent, by name, see :class:`Judge`.
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
        judge: Has the images that judge.
        metric: What decides, one of the judge's names.
        seed: Decides which images choose, and what is left out of a fit that is only tried.
        split: Whether half of the images choose and the others report; else all do both.

    Attributes:
        fitted: What each method made, by its name.
        choosing: Numbers of the images that choose.
        reporting: And of those that report.
    """

    def __init__(
        self, problem: Problem, judge: Judge, *, metric: str, seed: int = 0, split: bool = True
    ) -> None:
        self.problem, self.judge, self.metric = problem, judge, metric
        rng = np.random.default_rng(seed)
        images = judge.images
        if len(images) < 2 and split:
            raise ValueError(
                f'{len(images)} labelled images cannot choose and report: name more, or leave the '
                'choice out'
            )
        first, last = np.split(rng.permutation(images), [(len(images) + 1) // 2])
        self.choosing, self.reporting = (
            (np.sort(first), np.sort(last)) if split else (images, images)
        )
        few = min(len(problem.chosen), MOST_TO_CHOOSE)
        self._few = replace(
            problem, chosen=np.sort(rng.choice(problem.chosen, few, replace=False)), fits=[]
        )
        self.fitted: dict[str, nn.Module] = {}
        self._draws = draws_of(len(self.reporting), seed)
        self._before = judge(None, self.reporting)
        self._values_before = self._before.values(self._draws)
        self._first = self._chosen_by(None)
        if np.isnan(self._first):
            raise ValueError(f'no class of {metric} is in the images that choose')

    def before(self) -> Row:
        """The classifier as it was."""
        values = once(self._before, len(self.reporting))
        return Row(None, values=values, chosen_by=self._first)

    def row(self, method: str, values: Optional[Sequence[float]] = None) -> Row:
        """Fit a method, with the best of its values.

        Args:
            method: Its name.
            values: What to try of its number. Default: None, what the method says.
        """
        start, module = time.monotonic(), method_named(method)
        values = module.VALUES if values is None else values
        try:
            found = {value: self._tried(module, value) for value in values}
            best = max(found, key=found.get)
            scores = self.fitted[method] = module.fit(self.problem, best)
        except ValueError as error:
            return Row(method, refused=str(error))
        after = self.judge(scores, self.reporting)
        seconds = time.monotonic() - start
        return Row(
            method,
            best if module.PARAMETER else None,
            once(after, len(self.reporting)),
            intervals_of_difference(self._values_before, after.values(self._draws)),
            found[best],
            seconds,
            hasattr(scores, 'folded'),
        )

    def _tried(self, module: Any, value: float) -> float:
        """The metric on the images that choose, of a fit to some of the samples."""
        return self._chosen_by(module.fit(self._few, value))

    def _chosen_by(self, scores: Optional[nn.Module]) -> float:
        return once(self.judge(scores, self.choosing), len(self.choosing))[self.metric]


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
