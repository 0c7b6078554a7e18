"""Calibrate a checkpoint in one pass over its training data."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.registry import DATASETS, init_default_scope

from .. import config_path
from ..analysis import markdown_table
from ..calibration import ClassPrior, PriorLike, ZeroCount
from ..cli import is_foreseen
from ..counting import CountError, counter_of
from ..counting.counting import listed
from ..defaults import PASSES
from ..engine import (
    check_checkpoint,
    check_data,
    check_keys,
    plugin_of,
    prepare,
    read_config,
    type_name,
)
from ..engine.confidence import calibrations_of
from ..engine.configs import model_config
from ..files import new_folders
from .collect import Collector, FullCollector, SeededDataset
from .fitting import Samples
from .one_pass import (
    SCORES,
    OnePass,
    build_stage2,
    check_fully,
    class_weights,
    is_calibrated,
    released_weight_decay,
    stage2_model,
)
from .passing import ImagePass
from .written import Written, resolved

FRAGMENTS = {'segmentation': 'seg', 'detection': 'det', 'classification': 'cls'}


@dataclass(frozen=True)
class Options:
    """What a calibration is asked for.

    Attributes:
        config: File of stage 1, or of ours of stage 2.
        checkpoint: File or address.
        out: Checkpoint to write; its config is written beside it.
        prior: Class frequencies. Default: None, those of a config of stage 2, else they are counted
            from the training data.
        exp_scale: ρ, or ``'auto'``: that with the best balanced score on training images that are
            held out of the samples. Default: None, that of a config of stage 2, else ``'auto'``.
        zero_count: Weight of unseen classes, see :func:`generalized_reweight`.
        images_per_class: Pass so few images that each class is in about as many, or ``'all'``.
            Default: None, see :data:`mmdisalign.defaults.IMAGES_PER_CLASS`.
        passes: How often an image is passed at most, each time with other augmentation.
        cache_size: Bytes of the samples, at most.
        cache_dir: Where samples go, and stay. Default: None, beside ``out``, and they are removed.
        seed: Of augmentation and sampling.
        cfg_options: ``KEY=VALUE`` that override the config.
    """

    config: Path
    checkpoint: str
    out: Path
    prior: Optional[PriorLike] = None
    exp_scale: Union[float, str, None] = None
    zero_count: ZeroCount = None
    images_per_class: Union[int, str, None] = None
    passes: int = PASSES
    cache_size: float = 1e9
    cache_dir: Optional[Path] = None
    seed: int = 0
    cfg_options: Optional[Sequence[str]] = None


class Calibrator:
    """The calibration of one checkpoint, from what is asked for to the files."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.cfg = read_config(options.config, options.cfg_options)
        self.plugin = plugin_of(self.cfg)
        check_keys(self.cfg, 'model', 'train_dataloader')
        check_data(self.cfg, 'train')
        check_checkpoint(options.checkpoint)
        init_default_scope(self.cfg.default_scope)
        import_module(f'mmdisalign.{self.plugin}')
        evaluators = {key: self.cfg.get(key) for key in ('val_evaluator', 'test_evaluator')}
        prepare(self.cfg, 'train')
        changed = {
            key: self.cfg[key] for key, own in evaluators.items() if self.cfg.get(key) != own
        }
        self.written = Written(options.out, options.config, options.cfg_options or (), changed)
        self.is_calibrated = is_calibrated(self.cfg)
        if not self.is_calibrated:  # what cannot be is refused before data are counted
            import_module(f'mmdisalign.{self.plugin}').calibrated_model(self.cfg.model)
        self.zero_count = options.zero_count or self.cfg.model.get('zero_count')
        self.passing = ImagePass(
            cfg=self.cfg,
            loader=self.cfg.train_dataloader,
            plugin=self.plugin,
            checkpoint=options.checkpoint,
            seed=options.seed,
            cache_dir=options.cache_dir or options.out.with_suffix('.samples'),
            cache_size=options.cache_size,
            keep=options.cache_dir is not None,
        )

    def run(self) -> None:
        """Collect, fit, and write the checkpoint and its config.

        Raises:
            CountError: If the training data are at fault.
            OSError: If a file cannot be written, or data are not there.
            ValueError: If config, checkpoint, data or prior do not fit.
        """
        self.written.check()
        with new_folders(self.options.out.parent), new_folders(self.passing.cache_dir):
            try:
                self._run()
            except CountError as error:
                raise CountError(
                    f'{error}; training needs it mended, or out of its data set'
                ) from error
            except BaseException as error:
                self._clean_up(error)
                raise

    def _run(self) -> None:
        options, start = self.options, time.monotonic()
        self.prior = self._prior()
        dataset = DATASETS.build(_without_repeats(self.cfg.train_dataloader.dataset))
        self._check_prior(dataset.metainfo.get('classes'))
        self.written.check_config(self.cfg, self._changes(0.0))
        kind = import_module(f'mmdisalign.{self.plugin}.collect').SampleCollector
        model = build_stage2(self._model(), options.checkpoint, options.seed, kind)
        collector = kind(model)
        choice = self.passing.choice(dataset, self.prior, options.images_per_class, options.passes)
        seeded = SeededDataset(dataset, options.seed)
        self.passing.collect(collector, seeded, choice, len(self.prior))
        collected = time.monotonic()
        print(f'Collected in {collected - start:.0f} s.')
        model.cpu()
        exp_scale, samples = self._fitted(model, collector)
        print(f'Fitted in {time.monotonic() - collected:.0f} s.')
        self._write(model, exp_scale, dataset.metainfo)
        if isinstance(collector, FullCollector):
            ((name, own),) = samples.items()
            weight = class_weights(collector.losses[name], exp_scale, self.zero_count)
            calibration = copy.deepcopy(calibrations_of(model)[name])
            model.to(get_device())
            print(check_fully(collector, own, calibration, seeded, choice, weight))
        if not self.passing.keep:
            self.passing.cache.remove()

    def _fitted(
        self, model: torch.nn.Module, collector: Collector
    ) -> tuple[float, dict[str, Samples]]:
        """Fit the calibrations; returns ρ, and the samples that they were fitted to."""
        decay = released_weight_decay(config_path(f'_base_/disalign_{FRAGMENTS[self.plugin]}.py'))
        samples = {name: own.samples() for name, own in self.passing.cache.reservoirs.items()}
        one_pass = OnePass(collector, samples, self.passing.cache.elements, self.zero_count, decay)
        one_pass.check_classes()
        exp_scale = self._exp_scale(one_pass, model)
        self._fit(one_pass, model, exp_scale)
        return exp_scale, samples

    def _clean_up(self, error: BaseException) -> None:
        """After an error, keep the samples if the same command can go on from them."""
        cache = self.passing.cache
        if cache is None:
            return
        # What was foreseen would come again, but for a disk that is full.
        comes_again = is_foreseen(error) and not isinstance(error, OSError)
        comes_again &= not self.passing.keep
        if comes_again or not cache.has_progress:
            cache.remove()
            return
        print(
            f'The samples so far stay in {cache.folder}: the same command goes on from them.',
            file=sys.stderr,
        )

    def _prior(self) -> ClassPrior:
        source = self.options.prior or self.cfg.model.get('class_prior')
        if source is None:
            print('Counting the training data.')
            prior = counter_of(self.plugin)(self.cfg.train_dataloader.dataset)
        else:
            prior = ClassPrior.build(source)
        if not prior.counts.all() and self.zero_count is None:
            names = [prior.name_of(index) for index in np.flatnonzero(prior.counts == 0)]
            where_from = source if isinstance(source, str) else 'the training data'
            raise ValueError(
                f'{where_from}: zero frequency of {listed(names, 8)}, so no weight. Say how to '
                'weigh what was never seen: --zero-count min, as the rarest class that was seen; '
                '--zero-count ignore, not at all; or --zero-count N, as if it were there N times'
            )
        return prior

    def _check_prior(self, classes: Optional[Sequence[str]]) -> None:
        """Raise ValueError if the prior is not of the classes of the data set."""
        if classes is None:
            return
        try:
            self.prior.check_classes(classes)
        except ValueError as error:
            source = self.options.prior or 'class_prior of the config'
            raise ValueError(
                f'{source}: {error}. Leave --prior out, and the training data are counted'
            ) from error

    def _model(self) -> dict[str, Any]:
        options = stage2_model(self.cfg, self.plugin, self.prior, None, self.zero_count)
        return {**model_config(self.cfg), **options}

    def _exp_scale(self, one_pass: OnePass, model: torch.nn.Module) -> float:
        """ρ: as given, as in the config of stage 2, or the best."""
        given = self.options.exp_scale
        if given is None and self.is_calibrated:
            (given,) = {loss.exp_scale for loss in one_pass.losses.values()}
        if given is not None and given != 'auto':
            return given
        score = SCORES[self.plugin]
        scores = one_pass.choose(calibrations_of(model), score, self.options.seed)
        rows = [[f'{exp_scale:g}', f'{found:.2f}'] for exp_scale, found in scores.items()]
        print(markdown_table(['ρ', f'mean {score} of the classes, held-out samples'], rows))
        best = max(scores, key=scores.get)
        if min(scores.values()) == max(scores.values()):
            print(
                'All ρ tie on these images, which the network may have learned by heart: choose '
                'it on validation images, with --exp-scale'
            )
        elif best in (min(scores), max(scores)):
            print(
                f'ρ = {best:g} is at the end of those tried, so these images do not tell it: '
                'choose it on validation images, with --exp-scale'
            )
        return best

    def _fit(self, one_pass: OnePass, model: torch.nn.Module, exp_scale: float) -> None:
        for name, calibration in calibrations_of(model).items():
            fit = one_pass.fit(calibration, name, exp_scale)
            ending = '' if fit.converged else ', not yet converged'
            print(
                f'{name}: loss {fit.before:.5f} to {fit.after:.5f} in {fit.steps} steps on '
                f'{len(one_pass.samples[name]):,} samples{ending}'
            )

    def _write(self, model: torch.nn.Module, exp_scale: float, metainfo: Mapping[str, Any]) -> None:
        meta = {'exp_scale': exp_scale, 'calibrated': str(self.options.checkpoint)}
        changes = self._changes(exp_scale)
        self.written.write(model, self.prior, self.cfg, changes, dataset_meta=metainfo, **meta)
        print(
            f'ρ = {exp_scale:g}. Written to {self.written.out}; its config is '
            f'{self.written.config}.'
        )

    def _changes(self, exp_scale: float) -> dict[str, Any]:
        """What the written config changes."""
        options = stage2_model(self.cfg, self.plugin, self.prior, exp_scale, self.zero_count)
        options['class_prior'] = str(self.written.prior.resolve())
        return {'model': options, 'load_from': resolved(self.options.checkpoint)}


def _without_repeats(dataset: Mapping[str, Any]) -> Mapping[str, Any]:
    """The data set below ``RepeatDataset``: a pass sees an image once."""
    while type_name(dataset.get('type')) == 'RepeatDataset':
        dataset = dataset['dataset']
    return dataset
