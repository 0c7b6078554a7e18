"""Which method a calibration writes, with which number, and what it is fitted to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from torch import nn

from .. import processes
from ..analysis.bootstrap import once
from ..analysis.methods import methods_page
from ..files import written_whole
from .comparison import (
    Comparison,
    Row,
    as_json,
    best_of,
    table_of,
    verdict_of,
    without_nan,
)
from .folding import check_foldable, folded_state
from .judging import Judge
from .methods import Value, checked_value, method_named, method_names
from .one_pass import OnePass

BEST = 'best'


@dataclass(frozen=True)
class Chosen:
    """A method, fitted.

    Attributes:
        method: Its name.
        value: Its one.
        scores: What makes scores, by the name of the calibration in whose place it comes.
        rows: What it was compared with; empty if nothing was chosen on validation images.
        metric: What decided there.
        fit_on: The source of what it was fitted to.
    """

    method: str
    value: Optional[Value]
    scores: dict[str, nn.Module]
    rows: Sequence[Row] = ()
    metric: Optional[str] = None
    fit_on: str = 'train'


def needs_choice(method: str, value: Optional[Value]) -> bool:
    """Whether something is to be chosen; ValueError if there is no such method."""
    if method == BEST:
        return True
    return value is None and method_named(method).PARAMETER is not None


def fitted(
    one_pass: OnePass, model: nn.Module, method: str, value: Optional[Value], seed: int
) -> Chosen:
    """Fit a method to the samples of each calibration of a model.

    Args:
        one_pass: The samples.
        model: With untouched calibrations.
        method: Its name.
        value: Its one, if it has one.
        seed: Of what starts at random.
    """
    module, own = method_named(method), checked_value(method, value)
    scores = {
        name: module.fit(one_pass.problem(model, name, seed), own) for name in one_pass.samples
    }
    return Chosen(method, own if module.PARAMETER else None, scores)


@dataclass(frozen=True)
class Choice:
    """Methods are compared on validation images.

    Attributes:
        method: The one whose number is chosen, or ``'best'`` of all.
        metric: What decides. Default: None, the first of the judge's names.
        split: Whether half of the images choose, and the others report.
        seed: Decides which; and of what starts at random, and is left out.
        report: JSON file that gets the table.
        page: HTML file that gets it with a picture.
        folding: Whether only what folds is compared.
    """

    method: str
    metric: Optional[str]
    split: bool
    seed: int
    report: Path
    page: Path
    folding: bool = False

    def check(self, names: Sequence[str]) -> None:
        """Raise ValueError if the metric is none of these."""
        if self.metric not in (None, *names):
            raise ValueError(f'--metric {self.metric} is none of {", ".join(names)}')

    def __call__(
        self,
        sources: Mapping[str, OnePass],
        model: nn.Module,
        judge: Judge,
        value: Optional[Value],
    ) -> Chosen:
        """Compare, print the table, and return what did best on the images that choose.

        Args:
            sources: What is fitted to, by its name, see :data:`FIT_ON`.
            model: With one calibration, untouched.
            judge: Has the validation images.
            value: The method's one. None: it is chosen.

        Raises:
            ValueError: If no method has a meaning here.
        """
        metric = self.metric or judge.names[0]
        ((name, _),) = next(iter(sources.values())).samples.items()
        problems = {source: own.problem(model, name, self.seed) for source, own in sources.items()}
        comparison = Comparison(problems, judge, metric=metric, seed=self.seed, split=self.split)
        rows = [comparison.before()]
        for method in method_names() if self.method == BEST else [self.method]:
            try:
                check_foldable(model, method)
            except ValueError as error:
                rows.append(Row(method, refused=str(error)))
                continue
            values = None if value is None else [value]
            # What learns nothing is the same, whatever it is fitted to.
            learns = method_named(method).LEARNS or len(sources) == 1
            for source in sources if learns else ['train']:
                row = comparison.row(method, values, source)
                print(f'{method}, fitted to {source}: {row.seconds:.0f} s', flush=True)
                rows.append(_writable(row, model, name, comparison))
        usable = [row for row in rows[1:] if row.refused is None]
        usable = [row for row in usable if row.folds or not self.folding]
        if not usable:
            raise ValueError(rows[-1].refused or 'no method folds')
        best = best_of(usable)
        self._tell(rows, best, metric, comparison)
        scores = {name: comparison.fitted[best.method, best.fit_on]}
        return Chosen(best.method, best.value, scores, rows, metric, best.fit_on)

    def _tell(self, rows: Sequence[Row], best: Row, metric: str, comparison: Comparison) -> None:
        chosen, reported = images = len(comparison.choosing), len(comparison.reporting)
        print(
            f'Numbers are chosen by the {metric} of {chosen:,} validation images, and the table is '
            + (f'of {reported:,} others:' if self.split else 'of the same, so it flatters:')
        )
        print(table_of(rows, metric))
        names = comparison.judge.names
        verdict = verdict_of(best, rows[0], metric, names[-1])
        error = comparison.judge.sampling_error(comparison.reporting)
        if error is not None:
            verdict += (
                f' {names[0]} is of sampled pixels: its standard error is at most {error:.2f}.'
            )
        ceiling = _ceiling(comparison)
        if ceiling is not None:
            values = ', '.join(f'{key} {value:.2f}' for key, value in ceiling.items())
            verdict += f' With the true class of each box, {values}: no method can do much better.'
        print(verdict)
        if processes.rank() > 0:
            return
        content = {
            'metric': metric,
            'overall': names[0],
            'tail': names[-1],
            'images': images,
            'split': self.split,
            'sampling_error': error,
            'ceiling': without_nan(ceiling),
            'methods': as_json(rows),
        }
        text = json.dumps(content, indent=1, allow_nan=False) + '\n'
        written = text, methods_page(content, verdict)
        for path, text in zip((self.report, self.page), written):
            with written_whole(path) as file:
                file.write_text(text, encoding='utf-8')


def _ceiling(comparison: Comparison) -> Optional[dict[str, Optional[float]]]:
    """The ceiling of the images that report, by name, see :class:`Judge`."""
    judged = comparison.judge.ceiling(comparison.reporting)
    return None if judged is None else once(judged, len(comparison.reporting))


def _writable(row: Row, model: nn.Module, name: str, comparison: Comparison) -> Row:
    """The row, refused if its scores cannot be put into the weights of the model.

    Args:
        row: DisAlign's needs none of that.
        model: With an untouched calibration.
        name: Of it.
        comparison: That the row is of.
    """
    if row.refused is not None or row.method == 'disalign':
        return row
    try:
        folded_state(model, {name: comparison.fitted[row.method, row.fit_on]})
    except ValueError as error:
        return Row(row.method, row.fit_on, refused=f'{row.method} cannot be written: {error}')
    return row
