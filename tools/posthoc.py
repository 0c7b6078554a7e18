"""Rebalance a trained classifier without training it.

    python tools/posthoc.py METHOD CONFIG CHECKPOINT OUT

Writes a checkpoint for the same config. τ and γ are chosen by a metric on the config's validation
data, unless --value says what to take.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from mmdisalign.analysis import markdown_table
from mmdisalign.calibration import (
    ClassPrior,
    class_means,
    logit_adjustment,
    normalized_calibration,
    tau_normalized,
)
from mmdisalign.engine import check_checkpoint, check_data, launch, posthoc


def _normalize(prior: Optional[ClassPrior]) -> Callable[[nn.Module, float], None]:
    def change(classifier: nn.Module, tau: float) -> None:
        with torch.no_grad():
            classifier.weight.copy_(tau_normalized(classifier.weight, tau))
            if classifier.bias is not None and tau:
                classifier.bias.zero_()  # the paper leaves the bias out

    return change


def _adjust(prior: ClassPrior) -> Callable[[nn.Module, float], None]:
    return lambda classifier, tau: posthoc.shift_scores(classifier, logit_adjustment(prior, tau))


def _norcal(prior: ClassPrior) -> Callable[[nn.Module, float], None]:
    return lambda classifier, gamma: posthoc.shift_scores(
        classifier, normalized_calibration(prior, gamma)
    )


@dataclass(frozen=True)
class Method:
    """A change of the classifier that one number controls.

    Attributes:
        change: From a prior, which may be None, to the change.
        values: What is tried by default.
        needs_prior: Whether it needs class frequencies.
    """

    change: Callable[[Optional[ClassPrior]], Callable[[nn.Module, float], None]]
    values: tuple[float, ...]
    needs_prior: bool = True


METHODS = {
    'tau-norm': Method(_normalize, tuple(i / 10 for i in range(11)), needs_prior=False),
    'logit-adjustment': Method(_adjust, tuple(i / 4 for i in range(9))),
    'norcal': Method(_norcal, tuple(i / 5 for i in range(6))),
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
    if args.method != 'ncm' and METHODS[args.method].needs_prior and not args.prior:
        parser.error(f'{args.method} needs class frequencies: --prior')
    return args


def nearest_class_mean(runner: Runner, cfg: Config) -> None:
    """Make the class means of the training data the weights of the cosine classifier."""
    model = runner.model
    kind = type(getattr(model, 'head', None)).__name__
    if 'Cosine' not in kind:
        raise TypeError(f'ncm needs a config whose head is CosineClsHead, not {kind}')
    runner.load_or_resume()
    # The images as they are tested, each once.
    loader = dict(cfg.val_dataloader, dataset=dict(cfg.train_dataloader.dataset))
    loader['dataset']['pipeline'] = cfg.val_dataloader.dataset.pipeline
    features, labels = [], []
    model.eval()
    for batch in runner.build_dataloader(loader):
        with torch.no_grad():
            data = model.data_preprocessor(batch, False)
            features.append(model.head.pre_logits(model.extract_feat(data['inputs'])))
        labels += [sample.gt_label for sample in data['data_samples']]
    means = class_means(torch.cat(features), torch.cat(labels), model.head.num_classes)
    with torch.no_grad():
        model.head.fc.weight.copy_(means)


def _as_list(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def main() -> None:
    """Do what the command line says."""
    args = parse_args()
    cfg = launch.load_config(args)
    cfg.load_from = args.checkpoint
    check_data(cfg, 'val')
    check_checkpoint(args.checkpoint)
    # What is tried is no result: the file keeps what an evaluation of the config wrote.
    for evaluator in _as_list(cfg.val_evaluator):
        evaluator.pop('result_file', None)
    runner = launch.build_runner(cfg)
    if args.method == 'ncm':
        nearest_class_mean(runner, cfg)
        posthoc.save_model(runner, args.out, posthoc={'method': 'ncm'})
        return
    method = METHODS[args.method]
    unit = {'unit': args.unit} if args.unit else {}
    prior = ClassPrior.build(args.prior, **unit) if args.prior else None
    values = args.value or method.values
    best, scores = posthoc.choose(runner, method.change(prior), values, args.metric)
    if scores:
        rows = [[f'{value:g}', f'{score:.4f}'] for value, score in scores.items()]
        print(markdown_table(['value', args.metric or 'metric'], rows))
    posthoc.save_model(runner, args.out, posthoc={'method': args.method, 'value': best})
    print(f'{args.method} with {best:g}: {args.out}')


if __name__ == '__main__':
    main()
