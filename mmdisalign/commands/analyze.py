"""Compare evaluations in a report."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Optional

from mmengine.config import Config
from mmengine.registry import init_default_scope

from ..analysis import Calibration, Evaluation
from ..analysis.bootstrap import draws_of, intervals_of_difference
from ..analysis.report import Picture, check_comparable, file_name, write_report
from ..analysis.verdict import verdict
from ..calibration import ClassPrior
from ..engine import check_data, check_keys, plugin_of, read_config, read_state
from ..files import new_folders, where
from ..onepass.confidence import learned, observe_confidence


class Comparison:
    """The results of the command line, read or evaluated."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.cfg = self._config()
        self.paths = dict(zip(self._names(), args.results))
        asked = {'--images': args.images, '--intervals': args.intervals}
        for option in (name for name, own in asked.items() if own):
            if any(self._is_result(path) for path in args.results):
                raise ValueError(
                    f'{option} needs predictions: give what test.py --out saved in the place of '
                    'the result files'
                )
        self.parameters = self._learned()
        self._saved: Any = None

    def _learned(self) -> dict[str, tuple[list[float], list[float]]]:
        """α and β of each calibration of the checkpoint."""
        checkpoint = self.args.checkpoint
        parameters = {} if checkpoint is None else learned(read_state(checkpoint))
        if checkpoint is not None and not parameters:
            raise ValueError(f'{checkpoint} has no α and β: it is not a DisAlign checkpoint')
        return parameters

    def _config(self) -> Optional[Config]:
        if self.args.config is None:
            return None
        cfg = read_config(self.args.config, self.args.cfg_options)
        plugin_of(cfg)  # or an error
        check_keys(cfg, 'test_dataloader')
        check_data(cfg, 'test')
        init_default_scope(cfg.default_scope)
        return cfg

    def _names(self) -> Sequence[str]:
        if self.args.names:
            names = self.args.names
        else:
            names = [path.stem for path in self.args.results]
            if len(set(names)) < len(names):
                names = [f'{path.resolve().parent.name}/{path.stem}' for path in self.args.results]
        if len(set(map(file_name, names))) < len(names):
            raise ValueError(
                f'two results have the same name: {", ".join(names)}; --names names them'
            )
        return names

    def _is_result(self, path: Path) -> bool:
        return path.is_file() and path.suffix == '.json'

    def evaluations(self) -> dict[str, Evaluation]:
        """Each result, with the frequencies of ``--prior`` if that is given."""
        return {name: self._evaluation(name, path) for name, path in self.paths.items()}

    def _evaluation(self, name: str, path: Path) -> Evaluation:
        if self._is_result(path):
            result = Evaluation.load(path)
        else:
            file = self.args.out / 'results' / f'{file_name(name)}.json'
            result = self.predictions().evaluate(path, file)
        return result if self.args.prior is None else result.with_prior(self.prior)

    def predictions(self) -> Any:
        """The plug-in's reader of what ``test.py --out`` saved."""
        if self.cfg is None:
            raise ValueError('predictions of test.py --out need --config, for the ground truth')
        if self._saved is None:
            plugin = import_module(f'mmdisalign.{plugin_of(self.cfg)}.predictions')
            dataset = self.cfg.test_dataloader.dataset
            self._saved = plugin.SavedPredictions(dataset, self.prior)
        return self._saved

    @cached_property
    def prior(self) -> Optional[ClassPrior]:
        """Of the command line, or else of an evaluator of the config, or of its model."""
        evaluators = None if self.cfg is None else self.cfg.get('test_evaluator')
        evaluators = evaluators if isinstance(evaluators, (list, tuple)) else [evaluators or {}]
        sources = [self.args.prior, *(evaluator.get('class_prior') for evaluator in evaluators)]
        sources += [] if self.cfg is None else [(self.cfg.get('model') or {}).get('class_prior')]
        return next((ClassPrior.build(source) for source in sources if source is not None), None)

    def pictures(self, evaluation: Evaluation) -> Optional[list[Picture]]:
        """The images that changed most in the rarest group, between the first and the last."""
        if not self.args.images:
            return None
        names = list(self.paths)
        chosen = {name: self.paths[name] for name in (names[0], names[-1])}
        if not evaluation.partition:
            raise ValueError('--images shows the rarest group, and no group is known: give --prior')
        *_, rarest = evaluation.partition.values()
        return self.predictions().pictures(chosen, rarest, self.args.images)

    def intervals(self) -> Optional[dict[str, dict[str, tuple[float, float]]]]:
        """Of each result after the first, the 95 % interval of what each mean gained."""
        if not self.args.intervals:
            return None
        saved = self.predictions()
        (_, first), *others = self.paths.items()
        draws = draws_of(len(saved.dataset), seed=0)
        before = saved.judged(first).values(draws)
        return {
            name: intervals_of_difference(before, saved.judged(path).values(draws))
            for name, path in others
        }

    def calibrations(self, evaluation: Evaluation) -> list[Calibration]:
        """What the checkpoint learned, and with a config how confident it is."""
        checkpoint = self.args.checkpoint
        number = len(evaluation.classes)
        for name, (magnitude, _) in self.parameters.items():
            # Of panoptic data, boxes are of things, which come first.
            if len(magnitude) != number and (
                'PQ' not in evaluation.per_class or number < len(magnitude)
            ):
                raise ValueError(
                    f'{name} of {checkpoint} has {len(magnitude)} classes, the evaluations have '
                    f'{number}'
                )
        observed = None
        if self.parameters and self.cfg is not None and self.args.confidence_images:
            observed = observe_confidence(self.cfg, checkpoint, self.args.confidence_images)
        return [
            Calibration(
                name,
                *([*own, *[math.nan] * (number - len(own))] for own in values),
                *(() if observed is None else (observed.of(name), observed.pictures(name))),
            )
            for name, values in self.parameters.items()
        ]


def analyze(args: argparse.Namespace) -> None:
    """Compare as the command line says."""
    comparison = Comparison(args)
    print(f'The report will be in {where(args.out / "index.html")}.')
    with new_folders(args.out):
        _compare(comparison, args)


def _compare(comparison: Comparison, args: argparse.Namespace) -> None:
    results = comparison.evaluations()
    check_comparable(results)
    (first, before), *others = results.items()
    path = write_report(
        results,
        args.out,
        calibrations=comparison.calibrations(before),
        pictures=comparison.pictures(before),
        intervals=comparison.intervals(),
        title=args.title,
    )
    print()
    for name, after in others:
        print(verdict(before, after, (first, name)))
    print(f'Report: {path.resolve()}')
