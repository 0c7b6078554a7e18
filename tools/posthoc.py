"""Rebalance a trained classifier without training it.

    python tools/posthoc.py METHOD CONFIG CHECKPOINT OUT

Writes a checkpoint for the same config. τ and γ are chosen by a metric on the config's validation
data, unless --value says what to take.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from mmdisalign.analysis import markdown_table
from mmdisalign.calibration import (
    ClassPrior,
    logit_adjustment,
    normalized_calibration,
    tau_normalized,
)
from mmdisalign.engine import check_checkpoint, check_data, launch, posthoc

Change = Callable[[nn.Module, float], None]


def normalize(prior: None) -> Change:
    """Take the norms out of the weights; the paper leaves the bias out."""

    def change(classifier: nn.Module, tau: float) -> None:
        with torch.no_grad():
            classifier.weight.copy_(tau_normalized(classifier.weight, tau))
            if classifier.bias is not None and tau:
                classifier.bias.zero_()

    return change


def adjust(prior: ClassPrior) -> Change:
    """Subtract the logarithm of the frequencies."""
    return lambda classifier, tau: posthoc.shift_scores(classifier, logit_adjustment(prior, tau))


def divide(prior: ClassPrior) -> Change:
    """Divide the probabilities of the foreground by a power of the counts."""
    return lambda classifier, gamma: posthoc.shift_scores(
        classifier, normalized_calibration(prior, gamma), background=True
    )


@dataclass(frozen=True)
class Method:
    """A change of the classifier that one number controls.

    Attributes:
        change: From a prior, None where there is none, to the change.
        values: What is tried by default.
        scopes: The libraries whose models it is for.
        needs_prior: Whether it needs class frequencies.
    """

    change: Callable[[Any], Change]
    values: tuple[float, ...]
    scopes: tuple[str, ...]
    needs_prior: bool = True


METHODS = {
    'tau-norm': Method(
        normalize, tuple(i / 10 for i in range(11)), ('mmpretrain', 'mmseg'), needs_prior=False
    ),
    'logit-adjustment': Method(adjust, tuple(i / 4 for i in range(9)), ('mmpretrain', 'mmseg')),
    'norcal': Method(divide, tuple(i / 5 for i in range(6)), ('mmdet',)),
}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Rebalance a classifier without training')
    parser.add_argument('method', choices=[*METHODS, 'ncm'], help='what to do')
    parser.add_argument('config', help='config file; for ncm, of a model with a CosineClsHead')
    parser.add_argument('checkpoint', help='checkpoint of stage 1')
    parser.add_argument('out', help='checkpoint to write')
    parser.add_argument('--prior', help='class prior: a file or the name of a table')
    parser.add_argument('--unit', choices=['instances', 'images'], help='what the prior counts')
    parser.add_argument('--value', type=float, nargs='+', help='τ or γ; of several, the best')
    parser.add_argument('--metric', help='what is compared, the higher the better')
    launch.add_common_arguments(parser)
    args = parser.parse_args()
    if args.launcher != 'none':
        parser.error('it runs in one process: leave --launcher out')
    needs_prior = args.method != 'ncm' and METHODS[args.method].needs_prior
    if needs_prior and not args.prior:
        parser.error(f'{args.method} needs class frequencies: --prior')
    if args.method == 'ncm' and (args.value or args.metric):
        parser.error('ncm has nothing to choose: leave --value and --metric out')
    return args


def load_config(args: argparse.Namespace) -> Config:
    """The config of the command line, without what an evaluation would write."""
    cfg = launch.load_config(args)
    check_data(cfg, *(['train', 'val'] if args.method == 'ncm' else ['val']))
    check_checkpoint(args.checkpoint)
    # The checkpoint is loaded strictly; and what is tried is no result, so that the file of an
    # earlier evaluation stays.
    cfg.load_from, cfg.resume = None, False
    evaluators = cfg.val_evaluator
    for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
        evaluator.pop('result_file', None)
    return cfg


def set_class_means(args: argparse.Namespace, cfg: Config) -> None:
    """Nearest class mean."""
    from mmdisalign.classification import ncm

    runner = launch.build_runner(cfg)
    ncm.load_features(runner.model, args.checkpoint)
    ncm.set_class_means(runner)
    posthoc.save_model(runner.model, args.out, posthoc={'method': 'ncm'})
    print(f'ncm: {args.out}')


def change_classifier(args: argparse.Namespace, cfg: Config) -> None:
    """The methods that one number controls."""
    method, scope = METHODS[args.method], cfg.get('default_scope')
    if scope not in method.scopes:
        raise ValueError(
            f'{args.method} is for models of {" and ".join(method.scopes)}, the config of {scope}'
        )
    unit = {'unit': args.unit} if args.unit else {}
    prior = ClassPrior.build(args.prior, **unit) if args.prior else None
    metrics = (args.metric,) if args.metric else posthoc.METRICS[scope]
    runner = launch.build_runner(cfg)
    runner.load_checkpoint(args.checkpoint, map_location='cpu', strict=True)
    values = args.value or method.values
    best, scores, metric = posthoc.choose(runner, method.change(prior), values, metrics)
    if scores:
        rows = [[f'{value:g}', f'{score:.4f}'] for value, score in scores.items()]
        print(markdown_table(['value', metric], rows))
    chosen = {'method': args.method, 'value': best, 'metric': metric}
    posthoc.save_model(runner.model, args.out, posthoc=chosen)
    print(f'{args.method} with {best:g}: {args.out}')


def main() -> None:
    """Do what the command line says."""
    args = parse_args()
    cfg = load_config(args)
    if args.method == 'ncm':
        set_class_means(args, cfg)
    else:
        change_classifier(args, cfg)


if __name__ == '__main__':
    main()
