"""Calibrate a checkpoint in one pass: ``calibrate.py CONFIG CHECKPOINT --out calibrated.pth``."""

from __future__ import annotations

import argparse
import copy
import hashlib
import shutil
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Union

import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.dataset import BaseDataset
from mmengine.device import get_device
from mmengine.registry import DATASETS, init_default_scope

from mmdisalign import __version__, config_path
from mmdisalign.analysis import markdown_table
from mmdisalign.calibration import ClassPrior
from mmdisalign.engine import check_checkpoint, check_data, iter_datasets
from mmdisalign.engine.collect import Collector, FullCollector, SeededDataset, collect
from mmdisalign.engine.confidence import calibrations_of, model_config
from mmdisalign.engine.count_cache import file_identity
from mmdisalign.engine.counting import CountError, classes_of_images, counter_of
from mmdisalign.engine.image_choice import (
    IMAGES_PER_CLASS,
    PASSES,
    ImageChoice,
    enough_images,
    every_image,
)
from mmdisalign.engine.launch import plugin_of
from mmdisalign.engine.one_pass import (
    SCORES,
    OnePass,
    build_stage2,
    check_fully,
    class_weights,
    is_calibrated,
    released_weight_decay,
    stage2_model,
)
from mmdisalign.engine.posthoc import save_model
from mmdisalign.engine.sample_cache import SampleCache

FRAGMENTS = {'segmentation': 'seg', 'detection': 'det', 'classification': 'cls'}
UNITS = {'KB': 1e3, 'MB': 1e6, 'GB': 1e9, 'TB': 1e12}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Calibrate a trained model in one pass over its training data'
    )
    parser.add_argument('config', type=Path, help='config of stage 1, or of ours of stage 2')
    parser.add_argument('checkpoint', help='its checkpoint')
    parser.add_argument(
        '--out',
        type=Path,
        required=True,
        help='checkpoint to write; its config is written beside it, with .py in the place of .pth',
    )
    parser.add_argument(
        '--prior', help='class frequencies; default: counted from the training data'
    )
    parser.add_argument(
        '--exp-scale',
        type=_exp_scale,
        help="ρ, or 'auto': that with the best balanced score on training images that are held "
        "out of the samples; default: that of a config of stage 2, else 'auto'",
    )
    parser.add_argument('--zero-count', help="weight of unseen classes: 'min', 'ignore', a count")
    parser.add_argument(
        '--images-per-class',
        type=_per_class,
        help="pass so few images that each class is in about N, or 'all' of them; default: "
        + ', '.join(f'{number} in {plugin}' for plugin, number in IMAGES_PER_CLASS.items()),
    )
    parser.add_argument(
        '--passes',
        type=int,
        help='how often an image is passed, each time with other augmentation: at most, where a '
        f"class has few (default: {PASSES}), or with 'all' images (default: 1)",
    )
    parser.add_argument(
        '--cache-size', type=_num_bytes, default='1GB', help='bound of the samples; default: 1GB'
    )
    parser.add_argument(
        '--cache-dir', type=Path, help='where samples go, and stay; default: beside --out, removed'
    )
    parser.add_argument('--seed', type=int, default=0, help='of augmentation and sampling')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='settings that override the config'
    )
    args = parser.parse_args()
    if args.out.suffix != '.pth':
        parser.error(f'--out is a checkpoint, *.pth, got {args.out}')
    if args.passes is None:
        args.passes = 1 if args.images_per_class == 'all' else PASSES
    if args.passes < 1:
        parser.error(f'--passes is at least 1, got {args.passes}')
    written = {args.out, args.out.with_suffix('.py'), _prior_of(args.out)}
    given = {Path(path) for path in (args.config, args.checkpoint, args.prior) if path}
    for path in given:
        if path.resolve() in {own.resolve() for own in written}:
            parser.error(f'--out {args.out} would overwrite {path}: name another')
    return args


def _prior_of(out: Path) -> Path:
    return out.with_name(f'{out.stem}_prior.json')


def _exp_scale(text: str) -> Union[str, float]:
    if text == 'auto':
        return text
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"ρ is a number, or 'auto', got {text}") from None
    if not 0 <= number < float('inf'):
        raise argparse.ArgumentTypeError(f'ρ is at least 0, got {text}')
    return number


def _per_class(text: str) -> Union[str, int]:
    if text != 'all' and not (text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"a number of at least 1, or 'all', got {text}")
    return text if text == 'all' else int(text)


def _num_bytes(text: str) -> float:
    number, unit = text[:-2], text[-2:].upper()
    if unit not in UNITS or not number.replace('.', '', 1).isdigit():
        raise argparse.ArgumentTypeError(f'a size is like 500MB or 2GB, got {text}')
    return float(number) * UNITS[unit]


class Calibration:
    """The calibration of one checkpoint, from the command line to the files."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.cfg = Config.fromfile(args.config)
        if args.cfg_options is not None:
            self.cfg.merge_from_dict(args.cfg_options)
        self.plugin = plugin_of(self.cfg)
        check_data(self.cfg, 'train')
        check_checkpoint(args.checkpoint)
        init_default_scope(self.cfg.default_scope)
        import_module(f'mmdisalign.{self.plugin}')
        self.is_calibrated = is_calibrated(self.cfg)
        self.zero_count = self._zero_count()
        self.prior = self._prior()
        self.cache_dir = args.cache_dir or args.out.with_suffix('.samples')

    def run(self) -> None:
        """Collect, fit, and write the checkpoint and its config."""
        args, start = self.args, time.monotonic()
        self._check_config()
        fragment = config_path(f'_base_/disalign_{FRAGMENTS[self.plugin]}.py')
        decay = released_weight_decay(fragment)
        model = build_stage2(self._model(), args.checkpoint, args.seed)
        collector = import_module(f'mmdisalign.{self.plugin}.collect').SampleCollector(model)
        dataset = DATASETS.build(_without_repeats(self.cfg.train_dataloader.dataset))
        choice, seeded = self._choice(dataset), SeededDataset(dataset, args.seed)
        cache = self._collect(collector, seeded, choice)
        collected = time.monotonic()
        print(f'Collected in {collected - start:.0f} s.')
        model.cpu()
        samples = {name: own.samples() for name, own in cache.reservoirs.items()}
        one_pass = OnePass(collector, samples, cache.elements, self.zero_count, decay)
        one_pass.check_classes()
        exp_scale = self._exp_scale(one_pass, model)
        self._fit(one_pass, model, exp_scale)
        print(f'Fitted in {time.monotonic() - collected:.0f} s.')
        self._write(model, exp_scale, dataset.metainfo)
        if isinstance(collector, FullCollector):
            ((name, own),) = samples.items()
            weight = class_weights(collector.losses[name], exp_scale, self.zero_count)
            calibration = copy.deepcopy(calibrations_of(model)[name])
            model.to(get_device())
            print(check_fully(collector, own, calibration, seeded, choice, weight))
        if args.cache_dir is None:
            cache.remove()

    def _zero_count(self) -> Any:
        given = self.args.zero_count
        if given is None:
            return self.cfg.model.get('zero_count')
        return given if given in ('min', 'ignore') else float(given)

    def _prior(self) -> ClassPrior:
        source = self.args.prior or self.cfg.model.get('class_prior')
        if source is not None:
            return ClassPrior.build(source)
        print('Counting the training data.')
        return counter_of(self.plugin)(self.cfg.train_dataloader.dataset)

    def _model(self) -> dict[str, Any]:
        options = stage2_model(self.cfg, self.plugin, self.prior, None, self.zero_count)
        return {**model_config(self.cfg), **options}

    def _choice(self, dataset: BaseDataset) -> ImageChoice:
        """Which images are passed."""
        if not len(dataset):
            raise ValueError('the training data set of the config has no images')
        args, per_class = self.args, self.args.images_per_class or IMAGES_PER_CLASS[self.plugin]
        if per_class == 'all':
            return every_image(len(dataset), args.passes, self.prior)
        classes = classes_of_images(self.plugin, dataset, len(self.prior))
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
        identity = self._identity(choice, capacities)
        cache = SampleCache(self.cache_dir, identity, collector.layouts, capacities)
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
        self, choice: ImageChoice, capacities: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        """What decides the samples; those of anything else are not gone on from."""
        args, data = self.args, self.cfg.train_dataloader
        files = [args.checkpoint]
        for part in iter_datasets(data.dataset):
            files.append(str(Path(part.get('data_root') or '', part.get('ann_file') or '')))
        slots = {name: own.tolist() for name, own in capacities.items()}
        # Of the loader, the batch size decides what is drawn together.
        parts = (model_config(self.cfg), data.dataset, data.batch_size, slots, __version__)
        config = repr((*parts, import_module(self.cfg.default_scope).__version__))
        return {
            'config': hashlib.sha256(config.encode()).hexdigest(),
            'files': [[path, Path(path).is_file() and file_identity(path)] for path in files],
            'options': [args.seed, choice.identity],
        }

    def _exp_scale(self, one_pass: OnePass, model: torch.nn.Module) -> float:
        """ρ: as given, as in the config of stage 2, or the best."""
        given = self.args.exp_scale
        if given is None and self.is_calibrated:
            (given,) = {loss.exp_scale for loss in one_pass.losses.values()}
        if given is not None and given != 'auto':
            return given
        score = SCORES[self.plugin]
        scores = one_pass.choose(calibrations_of(model), score, self.args.seed)
        rows = [[f'{exp_scale:g}', f'{found:.2f}'] for exp_scale, found in scores.items()]
        print(markdown_table(['ρ', f'mean {score} of the classes, held-out samples'], rows))
        best = max(scores, key=scores.get)
        if best in (min(scores), max(scores)):
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
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = out.with_name(f'{out.stem}_draft.py')
        try:
            draft.write_text(self._config(_prior_of(out), 0.0), encoding='utf-8')
            Config.fromfile(draft)
        except Exception as error:
            raise ValueError(
                f'no config that inherits {self.args.config} can be written ({error}): put '
                '--cfg-options with indices of lists into a config file, and give a config that is '
                'no lazy one'
            ) from error
        finally:
            draft.unlink(missing_ok=True)

    def _write(self, model: torch.nn.Module, exp_scale: float, metainfo: Mapping[str, Any]) -> None:
        """Write the prior, the config and the checkpoint, which is last: with it, all is there."""
        out = self.args.out
        prior, config = _prior_of(out), out.with_suffix('.py')
        self.prior.to_json(prior)
        config.write_text(self._config(prior, exp_scale), encoding='utf-8')
        meta = {'exp_scale': exp_scale, 'calibrated': str(self.args.checkpoint)}
        save_model(model, out, dataset_meta=metainfo, **meta)
        print(f'ρ = {exp_scale:g}. Written to {out}; its config is {config}.')

    def _config(self, prior: Path, exp_scale: float) -> str:
        """A config that inherits the user's."""
        options = stage2_model(self.cfg, self.plugin, self.prior, exp_scale, self.zero_count)
        options['class_prior'] = str(prior.resolve())
        cfg = Config()
        cfg.merge_from_dict(self.args.cfg_options or {})
        cfg.merge_from_dict({'model': options, 'load_from': str(self.args.checkpoint)})
        for name in ('val_evaluator', 'test_evaluator'):
            evaluator = self.cfg.get(name)
            # mmdet's own needs lvis-api, which needs a numpy before 1.24.
            if isinstance(evaluator, Mapping) and evaluator.get('type') == 'LVISMetric':
                cfg.merge_from_dict({name: {'type': 'mmdisalign.detection.LongTailLVISMetric'}})
        base = self.args.config.resolve()
        return f'# Written by tools/calibrate.py.\n_base_ = {str(base)!r}\n{cfg.pretty_text}'


def _without_repeats(dataset: Mapping[str, Any]) -> Mapping[str, Any]:
    """The data set below ``RepeatDataset``: a pass sees an image once."""
    while str(dataset.get('type')).endswith('RepeatDataset'):
        dataset = dataset['dataset']
    return dataset


def main() -> None:
    """Calibrate as the command line says."""
    try:
        Calibration(parse_args()).run()
    except CountError as error:
        sys.exit(f'{error}; training needs it mended, or out of its data set')
    except KeyboardInterrupt:
        print('interrupted: the same command goes on from the samples it has', file=sys.stderr)
        sys.exit(130)


if __name__ == '__main__':
    main()
