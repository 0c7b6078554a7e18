"""Compare second-stage methods on labelled images: half of them choose, the others report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Optional

import numpy as np
from torch import nn

from ..analysis import markdown_table, value_text
from ..analysis.bootstrap import draws_of, intervals_of_difference, once
from ..processes import agreed
from .judging import Judge, Part, folds
from .methods import Problem, Value, foldable, method_named

FOLDS = 4  # of the images that choose, where they are fitted to
MOST_TO_CHOOSE = 30_000  # samples that each fit takes whose value is only tried


@dataclass(frozen=True)
class Row:
    """What a method came to on the images that report.

    Attributes:
        method: Its name; None of the classifier as it was.
        fit_on: The source of what it was fitted to, see :data:`FIT_ON`.
        value: Its one, the best on the images that choose.
        values: Means in per cent, by name, see :class:`Judge`.
        gains: The 95 % interval of what each gained.
        chosen_by: What decided, on the images that choose.
        seconds: What its fits took.
        folds: Whether it folds into the classifier.
        refused: Why it has no meaning here, and then nothing else is known.
    """

    method: Optional[str]
    fit_on: str = 'train'
    value: Optional[Value] = None
    values: Optional[Mapping[str, float]] = None
    gains: Optional[Mapping[str, tuple[float, float]]] = None
    chosen_by: Optional[float] = None
    seconds: float = 0.0
    folds: bool = True
    refused: Optional[str] = None


class Comparison:
    """Methods that are fitted to samples, and judged by others.

    What is fitted to the images that choose is chosen by cross-fitting: each of :data:`FOLDS` parts
    of these is judged with what is fitted to the others.

    Args:
        problems: What is fitted to, by its source.
        judge: Has the images that judge.
        metric: What decides, one of the judge's names.
        seed: Decides which images choose, and what is left out of a fit that is only tried.
        split: Whether half of the images choose and the others report; else all do both.

    Attributes:
        fitted: What each method made, by its name and source.
        choosing: Numbers of the images that choose.
        reporting: And of those that report.

    Raises:
        ValueError: If there are too few images.
    """

    def __init__(
        self,
        problems: Mapping[str, Problem],
        judge: Judge,
        *,
        metric: str,
        seed: int = 0,
        split: bool = True,
    ) -> None:
        self.problems, self.judge = problems, judge
        self.metric, self.seed = metric, seed
        images = judge.images
        self.choosing, self.reporting = folds(images, seed) if split else (images, images)
        crossed = set(problems) != {'train'}
        self._folds = folds(self.choosing, seed, FOLDS) if crossed else []
        self.fitted: dict[tuple[str, str], nn.Module] = {}
        self._draws = draws_of(len(self.reporting), seed)
        self._before = judge((None, self.reporting))
        self._values_before = self._before.values(self._draws)
        self._first = self._chosen_by((None, self.choosing))
        if np.isnan(self._first):
            raise ValueError(f'no class of {metric} is in the images that choose')

    def before(self) -> Row:
        """The classifier as it was."""
        values = once(self._before, len(self.reporting))
        return Row(None, values=values, chosen_by=self._first)

    def row(
        self, method: str, values: Optional[Sequence[Value]] = None, fit_on: str = 'train'
    ) -> Row:
        """Fit a method, with the best of its values.

        Args:
            method: Its name.
            values: What to try. Default: None, what the method says.
            fit_on: The source of what it is fitted to.
        """
        start, module = time.monotonic(), method_named(method)
        problem, values = self.problems[fit_on], module.VALUES if values is None else values
        try:
            fewer = self._fewer(problem, fit_on)
            found = searched(lambda value: agreed(self._tried(module, value, fewer)), values)
            best = max(found, key=found.get)
            scores = self.fitted[method, fit_on] = module.fit(problem, best)
        except (FloatingPointError, ValueError) as error:
            return Row(method, fit_on, refused=str(error))
        after = self.judge((scores, self.reporting))
        seconds = time.monotonic() - start
        return Row(
            method,
            fit_on,
            best if module.PARAMETER else None,
            once(after, len(self.reporting)),
            intervals_of_difference(self._values_before, after.values(self._draws)),
            found[best],
            seconds,
            foldable(scores),
        )

    def _fewer(self, problem: Problem, fit_on: str) -> list[tuple[Problem, np.ndarray]]:
        """What is fitted to when a value is tried, and the images that this is judged by."""
        if fit_on == 'train':
            return [(_some(problem, problem.chosen, self.seed), self.choosing)]
        image = problem.samples.image[problem.chosen]
        others = [problem.chosen[~np.isin(image, fold)] for fold in self._folds]
        return [(_some(problem, own, self.seed), fold) for own, fold in zip(others, self._folds)]

    def _tried(
        self, module: Any, value: Value, fewer: Sequence[tuple[Problem, np.ndarray]]
    ) -> float:
        """The metric on the images that choose, of fits to some of the samples."""
        for problem, _ in fewer:
            problem.start = module.fit(problem, value)
        return self._chosen_by(*((problem.start, images) for problem, images in fewer))

    def _chosen_by(self, *parts: Part) -> float:
        return once(self.judge(*parts), len(self.choosing))[self.metric]


def searched(tried: Callable[[Value], float], values: Sequence[Value]) -> dict[Value, float]:
    """What values come to: every second number, and those beside the best of these; each name.

    Of a metric with one top that is all that could be best. One after another, from the least: each
    fit begins where that of the last value ended.

    Args:
        tried: What a value comes to.
        values: In any order.
    """
    if isinstance(values[0], str):
        return {value: tried(value) for value in values}
    values = sorted(values)
    found = {value: tried(value) for value in values[::2]}
    top = values.index(max(found, key=found.get))
    beside = (value for value in values[max(top - 1, 0) : top + 2] if value not in found)
    return {**found, **{value: tried(value) for value in beside}}


def _some(problem: Problem, chosen: np.ndarray, seed: int) -> Problem:
    """At most :data:`MOST_TO_CHOOSE` of the chosen samples."""
    few = min(len(chosen), MOST_TO_CHOOSE)
    kept = np.random.default_rng(seed).choice(chosen, few, replace=False)
    return replace(problem, chosen=np.sort(kept), fits=[])


def best_of(rows: Sequence[Row]) -> Row:
    """The row whose method did best on the images that choose."""
    return max((row for row in rows if row.refused is None), key=lambda row: row.chosen_by)


def table_of(rows: Sequence[Row], metric: str) -> str:
    """The rows, and why methods that are not among them were refused."""
    shown = [row for row in rows if row.refused is None]
    keys = list(shown[0].values)
    header = ['', 'fitted to', 'value', *keys, f'gain in {metric}, 95 %', 'seconds', 'folds']
    cells = [
        [
            row.method or 'stage 1',
            row.fit_on if row.method else '',
            value_text(row.value),
            *(f'{row.values[key]:.2f}' for key in keys),
            '' if row.gains is None else '{:+.2f} to {:+.2f}'.format(*row.gains[metric]),
            '' if row.method is None else f'{row.seconds:.1f}',
            'yes' if row.folds else 'no',
        ]
        for row in shown
    ]
    refused = list(dict.fromkeys(row.refused for row in rows if row.refused is not None))
    return '\n'.join([markdown_table(header, cells), *([''] if refused else []), *refused])


def verdict_of(row: Row, before: Row, metric: str, tail: str) -> str:
    """What the intervals of the row that is written show.

    Args:
        row: It.
        before: Of the classifier as it was.
        metric: What decided.
        tail: The value of the rarest classes.
    """
    shown = []
    for key in dict.fromkeys((metric, tail)):
        low, high = row.gains[key]
        sure = 'gains' if low > 0 else 'loses' if high < 0 else 'shows nothing'
        shown.append(f'{key} {sure} ({low:+.2f} to {high:+.2f})')
    worse = 'On the images that choose, no method did better than the classifier as it was. '
    verdict = f'{row.method}, fitted to {row.fit_on}: {", ".join(shown)}.'
    return worse * (row.chosen_by <= before.chosen_by) + verdict


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows for a JSON file, which has no NaN: null where no class of a group occurs."""
    return [without_nan(asdict(row)) for row in rows]


def without_nan(value: Any) -> Any:
    """What JSON has in the place of a value with NaN."""
    if isinstance(value, Mapping):
        return {key: without_nan(own) for key, own in value.items()}
    if isinstance(value, tuple):
        return [without_nan(own) for own in value]
    return None if isinstance(value, float) and np.isnan(value) else value
