"""Calibrate a checkpoint in one pass over its training data."""

from __future__ import annotations

import argparse
import copy
import hashlib
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.device import get_device
from mmengine.registry import DATASETS, init_default_scope

from .. import __version__, config_path
from ..analysis import markdown_table
from ..calibration import ClassPrior
from ..cli import is_foreseen
from ..engine import (
    check_checkpoint,
    check_data,
    check_keys,
    is_new_style,
    iter_datasets,
    plugin_of,
    prepare,
    read_config,
    type_name,
)
from ..engine.checkpoint import checkpoint_of
from ..engine.collect import Collector, FullCollector, SeededDataset, collect
from ..engine.confidence import calibrations_of, model_config
from ..engine.configs import named, parse_options
from ..engine.count_cache import file_identity
from ..engine.counting import CountError, classes_of_images, counter_of, listed
from ..engine.fit import Samples
from ..engine.image_choice import (
    ImageChoice,
    enough_images,
    every_image,
    identity_of_images,
)
from ..engine.one_pass import (
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
from ..engine.sample_cache import SampleCache
from ..files import check_file, new_folders, where, written_whole
from .defaults import IMAGES_PER_CLASS, prior_of

FRAGMENTS = {'segmentation': 'seg', 'detection': 'det', 'classification': 'cls'}


class Calibration:
    """The calibration of one checkpoint, from the command line to the files."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.cfg = read_config(args.config, args.cfg_options)
        self.plugin = plugin_of(self.cfg)
        check_keys(self.cfg, 'model', 'train_dataloader')
        check_data(self.cfg, 'train')
        check_checkpoint(args.checkpoint)
        init_default_scope(self.cfg.default_scope)
        import_module(f'mmdisalign.{self.plugin}')
        # What may be replaced now is told from what the config has by its difference.
        self._evaluators = {key: self.cfg.get(key) for key in ('val_evaluator', 'test_evaluator')}
        prepare(self.cfg, 'train')
        self.is_calibrated = is_calibrated(self.cfg)
        self.zero_count = args.zero_count or self.cfg.model.get('zero_count')
        self.cache_dir = args.cache_dir or args.out.with_suffix('.samples')
        self._cache: Optional[SampleCache] = None

    def run(self) -> None:
        """Collect, fit, and write the checkpoint and its config.

        Raises:
            CountError: If the training data are at fault.
            OSError: If a file cannot be written, or data are not there.
            ValueError: If config, checkpoint, data or prior do not fit.
        """
        out = self.args.out
        print(
            f'Will be written: {where(out)}, and beside it {out.with_suffix(".py").name} and '
            f'{prior_of(out).name}.'
        )
        for path in (out, out.with_suffix('.py'), prior_of(out)):
            check_file(path)
        with new_folders(out.parent), new_folders(self.cache_dir):
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
        start = time.monotonic()
        self.prior = self._prior()
        dataset = DATASETS.build(_without_repeats(self.cfg.train_dataloader.dataset))
        self._check_prior(dataset.metainfo.get('classes'))
        self._check_config()
        model = build_stage2(self._model(), self.args.checkpoint, self.args.seed)
        collector = import_module(f'mmdisalign.{self.plugin}.collect').SampleCollector(model)
        if self._chooses_exp_scale:
            check_choosable(collector.losses)
        choice, seeded = self._choice(dataset), SeededDataset(dataset, self.args.seed)
        self._cache = self._collect(collector, seeded, choice)
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
        if self.args.cache_dir is None:
            self._cache.remove()

    def _fitted(
        self, model: torch.nn.Module, collector: Collector
    ) -> tuple[float, dict[str, Samples]]:
        """Fit the calibrations; returns ρ, and the samples that they were fitted to."""
        decay = released_weight_decay(config_path(f'_base_/disalign_{FRAGMENTS[self.plugin]}.py'))
        samples = {name: own.samples() for name, own in self._cache.reservoirs.items()}
        one_pass = OnePass(collector, samples, self._cache.elements, self.zero_count, decay)
        one_pass.check_classes()
        exp_scale = self._exp_scale(one_pass, model)
        self._fit(one_pass, model, exp_scale)
        return exp_scale, samples

    def _clean_up(self, error: BaseException) -> None:
        """After an error, keep the samples if the same command can go on from them."""
        if self._cache is None:
            return
        # What was foreseen would come again, but for a disk that is full.
        comes_again = is_foreseen(error) and not isinstance(error, OSError)
        comes_again &= self.args.cache_dir is None  # there, samples stay
        if comes_again or not self._cache.has_progress:
            self._cache.remove()
            return
        print(
            f'The samples so far stay in {self._cache.folder}: the same command goes on from them.',
            file=sys.stderr,
        )

    def _prior(self) -> ClassPrior:
        source = self.args.prior or self.cfg.model.get('class_prior')
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
            source = self.args.prior or 'class_prior of the config'
            raise ValueError(
                f'{source}: {error}. Leave --prior out, and the training data are counted'
            ) from error

    def _model(self) -> dict[str, Any]:
        options = stage2_model(self.cfg, self.plugin, self.prior, None, self.zero_count)
        return {**model_config(self.cfg), **options}

    def _choice(self, dataset: BaseDataset) -> ImageChoice:
        """Which images are passed."""
        if not len(dataset):
            raise ValueError('the training data set of the config has no images')
        args, per_class = self.args, self.args.images_per_class or IMAGES_PER_CLASS[self.plugin]
        # Also where all are passed: it is here that a faulty annotation is found.
        tells = per_class != 'all' or hasattr(dataset, 'get_data_info')
        classes = classes_of_images(self.plugin, dataset, len(self.prior)) if tells else []
        if per_class == 'all':
            return every_image(len(dataset), args.passes, self.prior)
        return enough_images(classes, len(self.prior), per_class, args.passes, args.seed)

    def _collect(
        self, collector: Collector, dataset: SeededDataset, choice: ImageChoice
    ) -> SampleCache:
        loader = self.cfg.train_dataloader
        capacities = collector.capacities(choice, self.args.cache_size)
        if any((own[: len(self.prior)] < 1).any() for own in capacities.values()):
            least = len(self.prior) * sum(layout.bytes for layout in collector.layouts.values())
            raise ValueError(
                f'there is no room for a sample of each class, which alone take {least / 1e6:.1f} '
                'MB: raise --cache-size'
            )
        identity = self._identity(choice, capacities, dataset.dataset)
        cache = self._cache = SampleCache(self.cache_dir, identity, collector.layouts, capacities)
        size = sum(collector.layouts[name].bytes * own.sum() for name, own in capacities.items())
        slots = sum(int(own.sum()) for own in capacities.values())
        print(
            f'{choice.how(len(dataset.dataset))}, and {collector.how}. Up to {slots:,} '
            f'samples, {size / 1e6:,.0f} MB in {self.cache_dir}, and then up to 2 GB of memory. Of '
            'a class with more samples than slots, each is kept with the same probability.'
        )
        if cache.resumed:
            done = min(cache.done * loader.batch_size, len(choice))
            print(f'Going on after {done:,} images.')
        options = {'batch_size': loader.batch_size, 'num_workers': loader.get('num_workers', 0)}
        if self.args.cache_dir is None:  # what other arguments left there
            for other in set(self.cache_dir.glob('samples_*')) - {cache.folder}:
                shutil.rmtree(other)
        collect(collector, cache, dataset, choice, **options)
        return cache

    def _identity(
        self, choice: ImageChoice, capacities: Mapping[str, np.ndarray], dataset: BaseDataset
    ) -> dict[str, Any]:
        """What decides the samples; those of anything else are not gone on from."""
        args, data = self.args, self.cfg.train_dataloader
        files = [args.checkpoint]
        for part in iter_datasets(data.dataset):
            files.append(str(Path(part.get('data_root') or '', part.get('ann_file') or '')))
        slots = {name: own.tolist() for name, own in capacities.items()}
        # Of the loader, the batch size decides what is drawn together. Classes become their names.
        named = Config(dict(model=model_config(self.cfg), data=data.dataset)).to_dict()
        parts = (named, data.batch_size, slots, __version__)
        config = repr((*parts, import_module(self.cfg.default_scope).__version__))
        return {
            'config': hashlib.sha256(config.encode()).hexdigest(),
            'files': [[path, Path(path).is_file() and file_identity(path)] for path in files],
            'images': identity_of_images(dataset),
            'options': [args.seed, choice.identity],
        }

    @property
    def _chooses_exp_scale(self) -> bool:
        given = self.args.exp_scale
        return given == 'auto' or (given is None and not self.is_calibrated)

    def _exp_scale(self, one_pass: OnePass, model: torch.nn.Module) -> float:
        """ρ: as given, as in the config of stage 2, or the best."""
        if not self._chooses_exp_scale:
            (own,) = {loss.exp_scale for loss in one_pass.losses.values()}
            return own if self.args.exp_scale is None else self.args.exp_scale
        score = SCORES[self.plugin]
        scores = one_pass.choose(calibrations_of(model), score, self.args.seed)
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

    def _check_config(self) -> None:
        """Write the config as a draft and read it: some options cannot be written so."""
        out = self.args.out
        draft = out.with_name(f'{out.stem}_draft.py')
        try:
            draft.write_text(self._config(prior_of(out), 0.0), encoding='utf-8')
            Config.fromfile(draft)
        except Exception as error:
            raise ValueError(
                f'no config over {self.args.config} can be written ({error}): put '
                '--cfg-options with indices of lists into a config file'
            ) from error
        finally:
            draft.unlink(missing_ok=True)

    def _write(self, model: torch.nn.Module, exp_scale: float, metainfo: Mapping[str, Any]) -> None:
        """Write the prior, the config and the checkpoint, which is last: with it, all is there."""
        out = self.args.out
        prior, config = prior_of(out), out.with_suffix('.py')
        meta = {'exp_scale': exp_scale, 'calibrated': str(self.args.checkpoint)}
        with written_whole(out) as partial:  # first, so that nothing is replaced if it has no room
            torch.save(checkpoint_of(model, dataset_meta=metainfo, **meta), partial)
            self.prior.to_json(prior)
            with written_whole(config) as file:
                file.write_text(self._config(prior, exp_scale), encoding='utf-8')
        print(f'ρ = {exp_scale:g}. Written to {out}; its config is {config}.')

    def _config(self, prior: Path, exp_scale: float) -> str:
        """A config that inherits the user's; of one with ``read_base``, a whole one."""
        options = stage2_model(self.cfg, self.plugin, self.prior, exp_scale, self.zero_count)
        options['class_prior'] = str(prior.resolve())
        checkpoint = Path(self.args.checkpoint)
        own = str(checkpoint.resolve() if checkpoint.is_file() else self.args.checkpoint)
        changes = {'model': options, 'load_from': own}
        if is_new_style(self.args.config):
            cfg = Config(named(dict(self.cfg.items())))
            cfg.merge_from_dict(changes)
            return f'# Written by tools/calibrate.py over {self.args.config}.\n{cfg.pretty_text}'
        cfg = Config()
        cfg.merge_from_dict(parse_options(self.args.cfg_options or ()))
        cfg.merge_from_dict(changes)
        for key, given in self._evaluators.items():
            if self.cfg.get(key) != given:
                own = self.cfg[key]
                cfg[key] = {'_delete_': True, **own} if isinstance(own, Mapping) else own
        base = self.args.config.resolve()
        return f'# Written by tools/calibrate.py.\n_base_ = {str(base)!r}\n{cfg.pretty_text}'


def _without_repeats(dataset: Mapping[str, Any]) -> Mapping[str, Any]:
    """The data set below ``RepeatDataset``: a pass sees an image once."""
    while type_name(dataset.get('type')) == 'RepeatDataset':
        dataset = dataset['dataset']
    return dataset
