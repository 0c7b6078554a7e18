"""Compare evaluations in a report: ``analyze.py BEFORE AFTER --out DIR``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Optional

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

from mmdisalign.analysis import Calibration, Evaluation
from mmdisalign.analysis.report import Picture, check_comparable, file_name, write_report
from mmdisalign.analysis.verdict import verdict
from mmdisalign.calibration import ClassPrior
from mmdisalign.engine import check_data, read_state
from mmdisalign.engine.confidence import learned, observe_confidence
from mmdisalign.engine.launch import plugin_of


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Show what calibration did: a page to read, figures as PNG and SVG',
    )
    parser.add_argument(
        'results',
        nargs='+',
        type=Path,
        metavar='RESULT',
        help='two or more, what is compared with first: the JSON of test_evaluator.result_file, or '
        'what test.py --out saved, which needs --config',
    )
    parser.add_argument('--out', type=Path, required=True, help='folder to write to')
    parser.add_argument('--names', nargs='+', help='what to call the results')
    parser.add_argument('--title', default='Long-tail report', help='heading of the page')
    parser.add_argument('--prior', help='class frequencies: what class_prior takes as a string')
    parser.add_argument('--config', help='config whose test data was predicted; of stage 2')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='settings that override the config'
    )
    parser.add_argument('--checkpoint', help='DisAlign checkpoint, to show its α and β')
    parser.add_argument(
        '--confidence-images',
        type=int,
        default=32,
        metavar='N',
        help='test images to observe σ(x) on, with --checkpoint and --config; default: 32',
    )
    parser.add_argument(
        '--images',
        type=int,
        default=0,
        metavar='N',
        help='show the N images whose predictions of the rarest group changed most; needs '
        'predictions of test.py --out; of more than two, the first and the last are compared',
    )
    args = parser.parse_args()
    if len(args.results) < 2:
        parser.error('give two results or more, what is compared with first')
    if args.names is not None and len(args.names) != len(args.results):
        parser.error(f'{len(args.results)} results, but {len(args.names)} names')
    return args


class Comparison:
    """The results of the command line, read or evaluated."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        for path in (*args.results, args.config, args.checkpoint):
            if path is not None and not Path(path).exists():
                raise FileNotFoundError(f'there is no {path} (seen from {Path.cwd()})')
        self.cfg = self._config()
        self.paths = dict(zip(self._names(), args.results))
        if args.images and any(self._is_result(path) for path in args.results):
            raise ValueError(
                '--images needs predictions: give what test.py --out saved in the place of the '
                'result files'
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
        cfg = Config.fromfile(self.args.config)
        if self.args.cfg_options is not None:
            cfg.merge_from_dict(self.args.cfg_options)
        plugin_of(cfg)  # or an error
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
        """Of the command line, or else of an evaluator of the config."""
        evaluators = None if self.cfg is None else self.cfg.get('test_evaluator')
        evaluators = evaluators if isinstance(evaluators, (list, tuple)) else [evaluators or {}]
        sources = [self.args.prior, *(evaluator.get('class_prior') for evaluator in evaluators)]
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

    def calibrations(self, evaluation: Evaluation) -> list[Calibration]:
        """What the checkpoint learned, and with a config how confident it is."""
        checkpoint = self.args.checkpoint
        for name, (magnitude, _) in self.parameters.items():
            if len(magnitude) != len(evaluation.classes):
                raise ValueError(
                    f'{name} of {checkpoint} has {len(magnitude)} classes, the evaluations have '
                    f'{len(evaluation.classes)}'
                )
        observed = None
        if self.parameters and self.cfg is not None and self.args.confidence_images:
            groups, number = evaluation.partition, self.args.confidence_images
            observed = observe_confidence(self.cfg, checkpoint, groups, number)
        return [
            Calibration(name, *values, None if observed is None else observed.of(name))
            for name, values in self.parameters.items()
        ]


def main() -> None:
    """Compare as the command line says."""
    args = parse_args()
    comparison = Comparison(args)
    results = comparison.evaluations()
    check_comparable(results)
    (first, before), *others = results.items()
    path = write_report(
        results,
        args.out,
        calibrations=comparison.calibrations(before),
        pictures=comparison.pictures(before),
        title=args.title,
    )
    print()
    for name, after in others:
        print(verdict(before, after, (first, name)))
    print(f'Report: {path.resolve()}')


if __name__ == '__main__':
    main()
