"""Calibrate a checkpoint in one pass over its training data."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.device import get_device
from mmengine.registry import DATASETS, init_default_scope

from .. import config_path, processes
from ..analysis import markdown_table, value_text
from ..calibration import ClassPrior
from ..cli import is_foreseen
from ..counting import CountError, counter_of
from ..counting.counting import listed
from ..defaults import FIT_ON
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
from .choosing import BEST, Choice, Chosen, fitted, needs_choice
from .collect import Collector, FullCollector, SeededDataset
from .comparison import table_of
from .folding import check_foldable, folded_state
from .image_choice import ImageChoice
from .judging import Judge, folds
from .methods import method_named
from .one_pass import (
    SCORES,
    OnePass,
    build_stage2,
    check_choosable,
    check_fully,
    class_weights,
    is_calibrated,
    released_weight_decay,
    stage2_model,
)
from .options import Options, Result
from .passing import ImagePass, fit_device
from .sources import Collected, FitOnValidation, no_samples, one_passes_of
from .stage1 import Stage1, loader_config, stage1_files
from .validation import Validation
from .written import Written, resolved

FRAGMENTS = {'segmentation': 'seg', 'detection': 'det', 'classification': 'cls'}


def calibrate(
    config: Stage1,
    checkpoint: Union[str, Path, None] = None,
    *,
    out: Union[str, Path],
    **options: Any,
) -> Result:
    """Calibrate a checkpoint in one pass over its training data, as ``tools/calibrate.py`` does.

    In a group of ``torch.distributed``, all processes call it, and share the work.

    Args:
        config: File of mmseg, mmdet or mmpretrain, of stage 1, or of ours of stage 2; or its
            Config; or a model that has its config, as ``init_model`` makes it.
        checkpoint: File or address. Default: None, the weights that the model has.
        out: Checkpoint to write; its config is written beside it.
        options: See :class:`Options`: ``method='best'``, ``exp_scale=0.5`` and so on.

    Raises:
        TypeError: If an option is unknown, or the model cannot be calibrated.
        ValueError: If config, checkpoint, data, prior or options do not fit.
    """
    path, weights = stage1_files(config, checkpoint, Path(out))
    run = Calibrator(Options(path, str(weights), Path(out), **options))
    run.run()
    return run.result


class Calibrator:
    """The calibration of one checkpoint, from what is asked for to the files."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.cfg = read_config(options.config, options.cfg_options)
        self.plugin = plugin_of(self.cfg)
        check_keys(self.cfg, 'model', *([] if options.dataloader else ['train_dataloader']))
        check_checkpoint(options.checkpoint)
        init_default_scope(self.cfg.default_scope)
        import_module(f'mmdisalign.{self.plugin}')
        evaluators = {key: self.cfg.get(key) for key in ('val_evaluator', 'test_evaluator')}
        self.loader = self._loader()
        changed = {
            key: self.cfg[key] for key, own in evaluators.items() if self.cfg.get(key) != own
        }
        self.written = Written(options.out, options.config, options.cfg_options or (), changed)
        self.is_calibrated = is_calibrated(self.cfg)
        self._check_method()
        if not self.is_calibrated:  # what cannot be is refused before data are counted
            import_module(f'mmdisalign.{self.plugin}').calibrated_model(self.cfg.model)
        self.validation: Optional[Validation] = None
        self.zero_count = options.zero_count or self.cfg.model.get('zero_count')
        self.passing = ImagePass(
            cfg=self.cfg,
            loader=self.loader,
            plugin=self.plugin,
            checkpoint=options.checkpoint,
            seed=options.seed,
            cache_dir=options.cache_dir or options.out.with_suffix('.samples'),
            cache_size=options.cache_size,
            keep=options.cache_dir is not None,
        )

    def _loader(self) -> Config:
        """The config of the loader of training images, which are there."""
        built = self.options.dataloader
        if built is None:
            check_data(self.cfg, 'train')
            prepare(self.cfg, 'train')
            return self.cfg.train_dataloader
        if self.options.prior is None and self.cfg.model.get('class_prior') is None:
            raise ValueError('a dataloader that is built is not counted: give its prior')
        if self.options.fit_on != 'train':
            raise ValueError('fit_on takes the training pipeline of the config: no dataloader')
        return loader_config(built)

    def _training(self) -> BaseDataset:
        """The training images."""
        built = self.options.dataloader
        if built is not None:
            return built.dataset
        return DATASETS.build(_without_repeats(self.loader.dataset))

    def _check_method(self) -> None:
        """Raise ValueError if the method, or its number, cannot be what is asked for."""
        options = self.options
        needs = needs_choice(options.method, options.value)
        if options.fit_on not in FIT_ON:
            raise ValueError(f"fit_on is one of {', '.join(FIT_ON)}, got '{options.fit_on}'")
        self.learns = options.method == BEST or method_named(options.method).LEARNS
        if options.fit_on != 'train' and not self.learns:
            raise ValueError(f'{options.method} is fitted to nothing: leave --fit-on out')
        if options.fit_on != 'train' and options.choose == 'train':
            raise ValueError(
                f'--fit-on {options.fit_on} takes validation images: leave --choose train out'
            )
        if options.method == 'disalign':
            if options.fold:
                raise ValueError(
                    'σ(x) of disalign varies with the input, so it does not fold: --method '
                    'disalign-constant does'
                )
            return
        if self.is_calibrated:
            raise ValueError(
                f'{options.method} is of a model of stage 1, and {options.config} is a config of '
                "DisAlign's stage 2: give that of stage 1"
            )
        if needs and options.choose == 'train':
            raise ValueError(
                f'{options.method} is not chosen on training images: name its number with --value, '
                'or --choose val'
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
        self.prior = processes.of_first(self._prior)
        dataset = self._training()
        self._check_prior(dataset.metainfo.get('classes'))
        if processes.rank() == 0:
            self.written.check_config(self.cfg, self._changes(0.0))
        kind = import_module(f'mmdisalign.{self.plugin}.collect').SampleCollector
        validation = self.validation = self._validation(dataset)
        theirs = self._fit_on_validation()
        model = build_stage2(self._model(), options.checkpoint, options.seed, kind)
        collector = kind(model)
        if options.method != BEST:
            check_foldable(model, options.method)
        if self._chooses():
            check_choosable(collector.losses)
        validation = self._able(validation, kind, model)
        seeded = SeededDataset(dataset, options.seed)
        if self.learns:
            choice = self._images(dataset)
            found = self.passing.collect(collector, seeded, choice, len(self.prior))
            training = Collected(*found)
        else:
            training = no_samples(collector.layouts)
        judge = self._judge(validation, kind, model)
        others = None if theirs is None else self._others(theirs, judge, collector)
        collected = time.monotonic()
        print(f'Collected in {collected - start:.0f} s.')
        model.to(fit_device())
        decay = released_weight_decay(config_path(f'_base_/disalign_{FRAGMENTS[self.plugin]}.py'))
        make = partial(OnePass, collector, zero_count=self.zero_count, weight_decay=decay)
        one_passes = one_passes_of(make, options.fit_on, training, others, self.prior, self.learns)
        if judge is None:
            chosen = self._unjudged(one_passes['train'], model)
        else:
            chosen = self._chosen(one_passes, model, judge)
        print(f'Fitted in {time.monotonic() - collected:.0f} s.')
        self._write(model, chosen, dataset.metainfo)
        table = table_of(chosen.rows, chosen.metric) if chosen.rows else ''
        written = self.written.out, self.written.config
        self.result = Result(
            *written, chosen.method, chosen.value, chosen.fit_on, chosen.rows, table
        )
        # The loss on training images tells of what was fitted to these.
        to_training = chosen.method == 'disalign' and chosen.fit_on == 'train'
        if isinstance(collector, FullCollector) and to_training:
            ((name, own),) = training.samples.items()
            weight = class_weights(collector.losses[name], chosen.value, self.zero_count)
            calibration = copy.deepcopy(calibrations_of(model)[name])
            model.to(get_device())
            print(check_fully(collector, own, calibration, seeded, choice, weight))
        self._remove_samples(validation, theirs)

    def _images(self, dataset: BaseDataset) -> ImageChoice:
        """Which training images are passed."""
        per_class, passes = self.options.images_per_class, self.options.passes
        return processes.of_first(
            lambda: self.passing.choice(dataset, self.prior, per_class, passes)
        )

    def _others(self, theirs: FitOnValidation, judge: Judge, collector: Collector) -> Collected:
        """Samples of the validation images that choose."""
        options, images = self.options, judge.images
        if options.split_val:
            images, _ = folds(images, options.seed)
        per_class, passes = options.images_per_class, options.passes
        return theirs.collect(collector, self.prior, per_class, passes, images)

    def _validation(self, training: BaseDataset) -> Optional[Validation]:
        """The validation images, if they are to choose, and can."""
        if not self._asks_validation():
            return None
        module = import_module(f'mmdisalign.{self.plugin}.collect')
        kind = getattr(module, 'Validation', Validation)
        try:
            validation = kind(self.cfg, self.prior, training, self.passing)
        except ValueError as error:
            self._without_validation(error)
            return None
        self._choice().check(validation.names)
        return validation

    def _fit_on_validation(self) -> Optional[FitOnValidation]:
        """The validation images that are fitted to, if there are to be some."""
        return None if self.options.fit_on == 'train' else FitOnValidation(self.cfg, self.passing)

    def _asks_validation(self) -> bool:
        options = self.options
        if options.fit_on != 'train':
            return True
        return self._chooses() if options.choose is None else options.choose == 'val'

    def _chooses(self) -> bool:
        """Whether there is a number to choose, or a method."""
        options = self.options
        if options.method == 'disalign':
            return options.exp_scale is None and not self.is_calibrated
        return needs_choice(options.method, options.value)

    def _without_validation(self, error: ValueError) -> None:
        """Say that training images choose instead, or raise ValueError where they cannot."""
        options = self.options
        if options.fit_on != 'train':
            raise ValueError(
                f'--fit-on {options.fit_on} takes labelled validation images, that choose and '
                f'report, too: {error}'
            ) from error
        if options.choose == 'val' or options.method != 'disalign':
            raise ValueError(
                f'validation images cannot choose: {error}; name the method and its number, with '
                '--method and --value'
            ) from error
        print(f'Validation images cannot choose: {error}. So ρ is chosen by training images.')

    def _able(
        self, validation: Optional[Validation], kind: type, model: torch.nn.Module
    ) -> Optional[Validation]:
        """The validation images, if they can judge the model."""
        try:
            if validation is not None:
                validation.check(kind, model)
        except ValueError as error:
            self._without_validation(error)
            return None
        return validation

    def _judge(
        self, validation: Optional[Validation], kind: type, model: torch.nn.Module
    ) -> Optional[Judge]:
        """What judges by the validation images."""
        if validation is None:
            return None
        start = time.monotonic()
        try:
            judge = validation.judge(kind, model)
            print(f'Validation images passed in {time.monotonic() - start:.0f} s.')
            return judge
        except ValueError as error:
            self._without_validation(error)
            return None

    def _remove_samples(self, *others: Union[Validation, FitOnValidation, None]) -> None:
        if self.passing.keep:
            return
        processes.wait()  # each reads those of all
        for other in others:
            if other is not None:
                other.remove()
        self.passing.remove()
        with suppress(OSError):  # nothing was collected
            self.passing.cache_dir.rmdir()

    def _choice(self) -> Choice:
        options = self.options
        return Choice(
            method=options.method,
            metric=options.metric,
            split=options.split_val,
            seed=options.seed,
            report=self.written.methods,
            page=self.written.page,
            folding=options.fold,
        )

    def _chosen(
        self, one_passes: Mapping[str, OnePass], model: torch.nn.Module, judge: Judge
    ) -> Chosen:
        """What did best on validation images; DisAlign's calibrations are those of the model."""
        value = self.options.value
        if self.options.method == 'disalign':
            value = self._given(next(iter(one_passes.values())))
        chosen = self._choice()(one_passes, model, judge, value)
        if chosen.method == 'disalign':
            for name, calibration in calibrations_of(model).items():
                calibration.load_state_dict(chosen.scores[name].state_dict())
        return chosen

    def _unjudged(self, one_pass: OnePass, model: torch.nn.Module) -> Chosen:
        """The method, fitted to training images alone."""
        options = self.options
        if options.method != 'disalign':
            return fitted(one_pass, model, options.method, options.value, options.seed)
        exp_scale = self._exp_scale(one_pass, model)
        self._fit(one_pass, model, exp_scale)
        return Chosen('disalign', exp_scale, dict(calibrations_of(model)))

    def _clean_up(self, error: BaseException) -> None:
        """After an error, keep the samples if the same command can go on from them."""
        cache = self.passing.cache
        if cache is None:
            return
        # What was foreseen would come again, but for a disk that is full.
        comes_again = is_foreseen(error) and not isinstance(error, OSError)
        comes_again &= not self.passing.keep
        if comes_again and self.validation is not None:
            self.validation.remove()
        if comes_again or not cache.has_progress:
            cache.remove()
            return
        print(
            f'The samples so far stay in {cache.folder}: the same command goes on from them.',
            file=sys.stderr,
        )

    def _prior(self) -> ClassPrior:
        source = self.options.prior
        source = self.cfg.model.get('class_prior') if source is None else source
        if source is None:
            print('Counting the training data.')
            prior = counter_of(self.plugin)(self.loader.dataset)
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

    def _given(self, one_pass: OnePass) -> Optional[float]:
        """ρ as it is asked for, or as the config of stage 2 has it."""
        given = self.options.exp_scale
        if given is None and self.is_calibrated:
            (given,) = {loss.exp_scale for loss in one_pass.losses.values()}
        return given

    def _exp_scale(self, one_pass: OnePass, model: torch.nn.Module) -> float:
        """ρ: as given, as in the config of stage 2, or the best."""
        given = self._given(one_pass)
        if given is not None:
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

    def _write(self, model: torch.nn.Module, chosen: Chosen, metainfo: Mapping[str, Any]) -> None:
        if processes.rank() > 0:
            return
        is_stock = chosen.method != 'disalign'
        state = folded_state(model, chosen.scores) if is_stock else model.state_dict()
        meta = {'method': chosen.method, 'value': chosen.value, 'fit_on': chosen.fit_on}
        if not is_stock:
            meta['exp_scale'] = chosen.value
        changes = self._stock_changes() if is_stock else self._changes(chosen.value)
        meta['calibrated'] = str(self.options.checkpoint)
        # A stock config keeps its evaluator: it is to run where mmdisalign is not.
        files = replace(self.written, changed={}) if is_stock else self.written
        files.write(state, self.prior, self.cfg, changes, dataset_meta=metainfo, **meta)
        stock = ', the stock model with other weights' if is_stock else ''
        written = f'{self.written.out}{stock}; its config is {self.written.config}.'
        print(f'{_value_of(chosen)}Written to {written}')

    def _stock_changes(self) -> dict[str, Any]:
        """What the config of a folded method changes."""
        return {'load_from': resolved(self.options.checkpoint)}

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


def _value_of(chosen: Chosen) -> str:
    """The value of a method that has one, as a sentence before others."""
    if chosen.value is None:
        return ''
    name = method_named(chosen.method).PARAMETER
    name = name if chosen.method == 'disalign' else f'{chosen.method}, {name}'
    return f'{name} = {value_text(chosen.value)}. '
