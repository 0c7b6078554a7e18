"""Rebalance a trained classifier without training it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from ..analysis import markdown_table
from ..calibration import (
    ClassPrior,
    logit_adjustment,
    normalized_calibration,
    tau_normalized,
)
from ..engine import check_checkpoint, check_data, launch, prepare, save_model
from ..files import check_file, new_folders, where
from ..onepass.posthoc import METRICS, choose, find_classifiers, shift_scores

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
    return lambda classifier, tau: shift_scores(classifier, logit_adjustment(prior, tau))


def divide(prior: ClassPrior) -> Change:
    """Divide the probabilities of the foreground by a power of the counts."""
    return lambda classifier, gamma: shift_scores(
        classifier, normalized_calibration(prior, gamma), background=True
    )


@dataclass(frozen=True)
class Method:
    """A change of the classifier that one number controls.

    Attributes:
        change: From a prior, None where there is none, to the change.
        values: What is tried by default.
        scopes: The libraries whose models it is for.
    """

    change: Callable[[Any], Change]
    values: tuple[float, ...]
    scopes: tuple[str, ...]


METHODS = {
    'tau-norm': Method(normalize, tuple(i / 10 for i in range(11)), ('mmpretrain', 'mmseg')),
    'logit-adjustment': Method(adjust, tuple(i / 4 for i in range(9)), ('mmpretrain', 'mmseg')),
    'norcal': Method(divide, tuple(i / 5 for i in range(6)), ('mmdet',)),
}


def load_config(args: argparse.Namespace) -> Config:
    """The config of the command line, without what an evaluation would write."""
    cfg = launch.load_config(args)
    check_data(cfg, *(['train', 'val'] if args.method == 'ncm' else ['val']))
    check_checkpoint(args.checkpoint)
    prepare(cfg, 'val')
    # The checkpoint is loaded strictly; and what is tried is no result, so that the file of an
    # earlier evaluation stays.
    cfg.load_from, cfg.resume = None, False
    evaluators = cfg.val_evaluator
    for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
        evaluator.pop('result_file', None)
    return cfg


def set_class_means(args: argparse.Namespace, cfg: Config) -> None:
    """Nearest class mean."""
    from ..classification import ncm

    runner = launch.build_runner(cfg)
    ncm.load_features(runner.model, args.checkpoint)
    ncm.set_class_means(runner)
    save_model(runner.model, args.out, posthoc={'method': 'ncm'})
    print(f'ncm: {args.out}')


def check_scores(
    classifiers: Mapping[str, nn.Module], prior: ClassPrior, args: argparse.Namespace
) -> None:
    """Raise ValueError, with its name, if a prior is of other classes than the classifiers."""
    for name, classifier in classifiers.items():
        found = len(classifier.weight) - (args.method == 'norcal')  # which has a background
        if found != len(prior):
            raise ValueError(
                f'{args.prior}: the class prior has {len(prior)} classes, but {name} of '
                f'{args.config} has {found}'
            )


def change_classifier(args: argparse.Namespace, cfg: Config) -> None:
    """The methods that one number controls."""
    method, scope = METHODS[args.method], cfg.get('default_scope')
    if scope not in method.scopes:
        raise ValueError(
            f'{args.method} is for models of {" and ".join(method.scopes)}, the config of {scope}'
        )
    unit = {'unit': args.unit} if args.unit else {}
    prior = ClassPrior.build(args.prior, **unit) if args.prior else None
    metrics = (args.metric,) if args.metric else METRICS[scope]
    runner = launch.build_runner(cfg)
    if prior is not None:
        check_scores(find_classifiers(runner.model), prior, args)
    try:
        runner.load_checkpoint(args.checkpoint, map_location='cpu', strict=True)
    except RuntimeError as error:
        reason = ' '.join(str(error).split())
        raise ValueError(
            f'{args.checkpoint} does not fit the model of {args.config}: {reason}'
        ) from error
    values = args.value or method.values
    best, scores, metric = choose(runner, method.change(prior), values, metrics)
    if scores:
        rows = [[f'{value:g}', f'{score:.4f}'] for value, score in scores.items()]
        print(markdown_table(['value', metric], rows))
    chosen = {'method': args.method, 'value': best, 'metric': metric}
    save_model(runner.model, args.out, posthoc=chosen)
    print(f'{args.method} with {best:g}: {args.out}')


def posthoc(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    cfg = load_config(args)
    check_file(args.out)
    print(f'The checkpoint will be {where(args.out)}.')
    with new_folders(Path(args.out).absolute().parent):
        if args.method == 'ncm':
            set_class_means(args, cfg)
        else:
            change_classifier(args, cfg)
