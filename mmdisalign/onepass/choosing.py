"""Which method a calibration writes, with which number, and what it is fitted to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from torch import nn

from ..analysis import partition
from ..calibration import ClassPrior
from ..files import written_whole
from . import processes
from .comparison import Comparison, Row, as_json, best_of, table_of, verdict_of
from .fitting import Samples
from .judging import OVERALL, metric_names
from .methods import method_named, method_names
from .one_pass import SCORES, OnePass

BEST = 'best'


@dataclass(frozen=True)
class Chosen:
    """A method, fitted.

    Attributes:
        method: Its name.
        value: Of its one number.
        scores: What makes scores, by the name of the calibration in whose place it comes.
        rows: What it was compared with; empty if nothing was chosen on validation images.
        metric: What decided there.
    """

    method: str
    value: Optional[float]
    scores: dict[str, nn.Module]
    rows: Sequence[Row] = ()
    metric: Optional[str] = None


def needs_choice(method: str, value: Optional[float]) -> bool:
    """Whether something is to be chosen; ValueError if there is no such method."""
    if method == BEST:
        return True
    return value is None and method_named(method).PARAMETER is not None


def fitted(
    one_pass: OnePass, model: nn.Module, method: str, value: Optional[float], seed: int
) -> Chosen:
    """Fit a method to the samples of each calibration of a model.

    Args:
        one_pass: The samples.
        model: With untouched calibrations.
        method: Its name.
        value: Of its one number, if it has one.
        seed: Of what starts at random.
    """
    module = method_named(method)
    own = module.VALUES[0] if value is None else value
    scores = {
        name: module.fit(one_pass.problem(model, name, seed), own) for name in one_pass.samples
    }
    return Chosen(method, own if module.PARAMETER else None, scores)


@dataclass(frozen=True)
class Choice:
    """Methods are compared on validation images.

    Attributes:
        method: The one whose number is chosen, or ``'best'`` of all.
        plugin: Such as ``'segmentation'``.
        prior: Of the training data.
        metric: What decides. Default: None, that of the library.
        split: Whether half of the images choose, and the others report.
        seed: Decides which.
        report: JSON file that gets the table.
        folding: Whether only what folds is compared.
    """

    method: str
    plugin: str
    prior: ClassPrior
    metric: Optional[str]
    split: bool
    seed: int
    report: Path
    folding: bool = False

    def check(self) -> None:
        """Raise ValueError if there is no such metric."""
        names = metric_names(self.prior, SCORES[self.plugin])
        if self.metric not in (None, *names):
            raise ValueError(f'--metric {self.metric} is none of {", ".join(names)}')

    def __call__(
        self, one_pass: OnePass, model: nn.Module, judged: Samples, value: Optional[float]
    ) -> Chosen:
        """Compare, print the table, and return what did best on the images that choose.

        Raises:
            ValueError: If no method has a meaning here.
        """
        kind = SCORES[self.plugin]
        metric = self.metric or OVERALL[kind]
        ((name, _),) = one_pass.samples.items()
        comparison = Comparison(
            one_pass.problem(model, name, self.seed),
            judged,
            kind=kind,
            metric=metric,
            seed=self.seed,
            split=self.split,
        )
        rows = [comparison.before()]
        for method in method_names() if self.method == BEST else [self.method]:
            rows.append(comparison.row(method, None if value is None else [value]))
        self._tell(rows, metric, comparison.num_images)
        usable = [row for row in rows[1:] if row.refused is None]
        usable = [row for row in usable if row.folds or not self.folding]
        if not usable:
            raise ValueError(rows[-1].refused or 'no method folds')
        best = best_of(usable)
        scores = {name: comparison.fitted[best.method]}
        return Chosen(best.method, best.value, scores, rows, metric)

    def _tell(self, rows: Sequence[Row], metric: str, images: tuple[int, int]) -> None:
        chosen, reported = images
        print(
            f'Numbers are chosen by the {metric} of {chosen:,} validation images, and the table is '
            + (f'of {reported:,} others:' if self.split else 'of the same, so it flatters:')
        )
        print(table_of(rows, metric))
        tail = list(partition(self.prior.groups))[-1]
        print(verdict_of(best_of(rows), metric, tail))
        if processes.rank() > 0:
            return
        with written_whole(self.report) as file:
            content = {'metric': metric, 'images': images, 'methods': as_json(rows)}
            file.write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')
