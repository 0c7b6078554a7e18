"""Why the rare classes of a detector do not rise: one hypothesis at a time, in one pass.

What is fitted to, and what is fitted, are varied; half of the validation images report AP, by the
seed, which also decides augmentation and sampling. ``python benchmarks/run.py rare_classes``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from mmengine.config import Config
from stage2 import BENCH, importable, mean_cell
from torch import nn

from mmdisalign.analysis import markdown_table
from mmdisalign.analysis.bootstrap import once
from mmdisalign.onepass.calibrator import Calibrator
from mmdisalign.onepass.judging import Judge, folds
from mmdisalign.onepass.methods import Problem, method_named
from mmdisalign.onepass.methods.disalign import untouched
from mmdisalign.onepass.one_pass import OnePass
from mmdisalign.onepass.options import Options

OUT = Path('work_dirs/bench/rare_classes')
EXP_SCALE = 0.8
Change = Callable[[Config], None]
Values = Mapping[str, float]


class _Enough(BaseException):
    """Ends a calibration before anything is chosen or written."""


class Collection(Calibrator):
    """A calibration that ends when its samples are there.

    Attributes:
        problems: What is fitted to, by its source.
        judge: Has the validation images, where these are asked for.
    """

    problems: dict[str, Problem]
    judge: Optional[Judge] = None

    def _chosen(self, one_passes: Mapping[str, Any], model: nn.Module, judge: Judge) -> Any:
        ((name, _),) = next(iter(one_passes.values())).samples.items()
        seed = self.options.seed
        self.problems = {key: own.problem(model, name, seed) for key, own in one_passes.items()}
        self.judge = judge
        raise _Enough

    def _unjudged(self, one_pass: OnePass, model: nn.Module) -> Any:
        return self._chosen({'train': one_pass}, model, None)


def collected(
    name: str, seed: int, change: Change = lambda cfg: None, **options: Any
) -> Collection:
    """The samples of a data set's stage 1, of a changed config."""
    stage_1, folder = BENCH / f'{name}_stage1', OUT / f'{name}_{seed}'
    own = Options(
        stage_1.with_suffix('.py'),
        str(stage_1.with_suffix('.pth')),
        folder.with_suffix('.pth'),
        seed=seed,
        cache_dir=folder,
        **options,
    )
    run = Collection(own)
    change(run.cfg)
    try:
        run.run()
    except _Enough:
        return run


def _sampler(**options: Any) -> Change:
    return lambda cfg: cfg.model.train_cfg.rcnn.sampler.update(options)


def _pipeline_of_test(cfg: Config) -> None:
    first, *others = copy.deepcopy(cfg.val_dataloader.dataset.pipeline)
    kept = [step for step in others if step.type not in ('LoadAnnotations', 'PackDetInputs')]
    # Before what changes the image, so that it changes boxes and masks, too.
    loaded = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
    cfg.train_dataloader.dataset.pipeline = [first, loaded, *kept, dict(type='PackDetInputs')]


def _unseen_augmentation(cfg: Config) -> None:
    *before, last = cfg.train_dataloader.dataset.pipeline
    crop = dict(type='RandomCrop', crop_type='relative_range', crop_size=(0.6, 0.6))
    colours = dict(type='PhotoMetricDistortion')
    cfg.train_dataloader.dataset.pipeline = [*before, crop, colours, last]


# What is fitted to: by the number of the hypothesis in the issue, and the change of the config.
COLLECTIONS: dict[str, Change] = {
    '1.1 crops and colours that stage 1 never saw': _unseen_augmentation,
    '1.2 512 proposals an image': _sampler(num=512),
    '1.2 half of the proposals on objects': _sampler(pos_fraction=0.5),
    '1.2 without annotated boxes': _sampler(add_gt_as_proposals=False),
    '1.6 all proposals, as at test': _sampler(
        num=1000, pos_fraction=1.0, add_gt_as_proposals=False
    ),
    '1.6 images as at test': _pipeline_of_test,
}


@dataclass
class Variant:
    """What is fitted.

    Attributes:
        background: Whether the score of the background is calibrated, too.
        fixed: Parameters of the calibration that do not learn, and what they are.
        exp_scale: ρ.
        background_weight: Factor of the weight of the background.
    """

    background: bool = False
    fixed: Mapping[str, float] = field(default_factory=dict)
    exp_scale: float = EXP_SCALE
    background_weight: float = 1.0

    def fit(self, problem: Problem) -> nn.Module:
        """Fit a calibration to samples."""
        number = problem.num_scores if self.background else problem.num_classes
        scores = untouched(problem, number)
        for name, value in self.fixed.items():
            own = scores.get_parameter(name).requires_grad_(False)
            own.fill_(value)
        weight = problem.class_weight(self.exp_scale)
        weight[problem.num_classes :] *= self.background_weight
        return problem.minimise(scores, weight)


VARIANTS: dict[str, Variant] = {
    **{f'ρ = {value:g}': Variant(exp_scale=value) for value in (0.0, 0.4, 0.8, 1.2, 1.6)},
    '1.3 the background is calibrated': Variant(background=True),
    **{
        f'1.3 weight of the background × {value:g}': Variant(background_weight=value)
        for value in (0.1, 0.3, 3.0)
    },
    '1.3 calibrated, × 0.3': Variant(background=True, background_weight=0.3),
    '1.4 α alone': Variant(fixed={'margin': 0.0}),
    '1.4 β alone': Variant(fixed={'magnitude': 0.0}),
    '1.4 σ = 1': Variant(fixed={'confidence.weight': 0.0, 'confidence.bias': 30.0}),
}


def measured(name: str, seed: int) -> Iterator[tuple[str, Values]]:
    """AP on the images that report, of stage 1, of its ceiling and of each variation."""
    first = collected(name, seed, choose='val', fit_on='best')
    judge = first.judge
    _, reporting = folds(judge.images, seed)

    def reported(scores: Optional[nn.Module]) -> Values:
        return once(judge((scores, reporting)), len(reporting))

    yield 'stage 1', reported(None)
    yield '1.5 true classes (ceiling)', once(judge.ceiling(reporting), len(reporting))
    training = first.problems['train']
    for label, variant in VARIANTS.items():
        yield label, reported(variant.fit(training))
    for gamma in (0.5, 1.0):
        yield f'NorCal, γ = {gamma:g}', reported(method_named('norcal').fit(training, gamma))
    for label, source in (('validation images', 'val'), ('both', 'both')):
        for value in (0.4, EXP_SCALE):
            made = Variant(exp_scale=value).fit(first.problems[source])
            yield f'1.1 fitted to {label}, ρ = {value:g}', reported(made)
    for label, change in COLLECTIONS.items():
        samples = collected(name, seed, change, exp_scale=EXP_SCALE).problems['train']
        yield label, reported(Variant().fit(samples))


def run(seeds: Sequence[int], names: Sequence[str] = ('signs', 'facade')) -> str:
    """The tables of the data sets, means of the seeds and how far they go apart."""
    if not BENCH.is_dir():
        return f'rare_classes: not run, the stage-1 models are not in {BENCH}'
    importable(BENCH)
    OUT.mkdir(parents=True, exist_ok=True)
    return '\n\n'.join(f'{name}\n\n{_table(name, seeds)}' for name in names)


def _table(name: str, seeds: Sequence[int]) -> str:
    found = [dict(measured(name, seed)) for seed in seeds]
    before = [own['stage 1'] for own in found]
    keys = list(before[0])
    rows = []
    for label in found[0]:
        cells = [label]
        for key in keys:
            own = [each[label][key] for each in found]
            before_it = [each[key] for each in before]
            cells.append(mean_cell(own, None if label == 'stage 1' else before_it))
        rows.append(cells)
    return markdown_table(['', *keys], rows)
