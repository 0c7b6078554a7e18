"""tools/calibrate.py --fit-on: fitted to the validation images that choose, or to both."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from project import run, write_stage1

from mmdisalign.calibration import ClassPrior
from mmdisalign.onepass import sources
from mmdisalign.onepass.fitting import Samples
from mmdisalign.onepass.image_choice import every_image, image_numbers
from mmdisalign.onepass.judging import folds
from mmdisalign.onepass.sources import Collected, images_of_classes, mixed


def made(label: list[int], weight: list[float], image: list[int], start: float) -> Samples:
    number = len(label)
    features = start + np.arange(number, dtype=np.float16).reshape(number, 1, 1)
    return Samples(
        features=features,
        logits=features.astype(np.float32),
        taps=np.ones((number, 1), np.float32),
        label=np.array(label),
        weight=np.array(weight, dtype=np.float64),
        image=np.array(image),
    )


def test_a_mixture_by_hand() -> None:
    training = made([0, 0, 1, 2], [4, 2, 2, 2], [1, 2, 1, 2], 0)
    validation = made([0, 1, 1, 2], [2, 1, 1, 1], [7, 7, 8, 8], 100)
    # Class 1 is scarce; label 2 is no class, as a background. Validation counts 10 / 5 times.
    both = mixed(training, validation, 0.5, np.array([False, True]))
    assert both.label.tolist() == [0, 0, 1, 2, 0, 2]
    assert both.weight.tolist() == [2, 1, 2, 1, 2, 1]
    assert both.image.tolist() == [-2, -3, -2, -3, 7, 8]
    assert both.view.tolist() == [1, 2, 1, 2, 10, 11]  # none is taken for another
    (chunk,) = both.chunks(np.arange(6))
    assert chunk.features.flatten().tolist() == [0, 1, 2, 3, 100, 103]
    alone = mixed(training, validation, 0.0, np.array([False, True]))
    assert alone.label.tolist() == [1, 0, 2] and alone.weight.tolist() == [2, 4, 2]
    (chunk,) = alone.chunks(np.arange(3))
    assert chunk.logits.flatten().tolist() == [2, 100, 103]


def test_images_are_counted_once_for_a_class() -> None:
    samples = made([0, 0, 0, 1, 2], [1] * 5, [1, 1, 2, 2, 3], 0)
    assert images_of_classes(samples, 2).tolist() == [2, 1]


def test_a_class_of_few_images_is_fitted_to_training_images(
    capsys: pytest.CaptureFixture,
) -> None:
    training = Collected({'fc': made([0, 1], [3, 1], [1, 2], 0)}, {'fc': 8.0})
    images = list(range(10, 10 + sources.LEAST_IMAGES))
    label = [0] * len(images) + [1]
    validation = Collected(
        {'fc': made(label, [1] * len(label), [*images, 10], 100)}, {'fc': len(label) * 3.0}
    )

    def make(samples: dict, elements: dict) -> SimpleNamespace:
        return SimpleNamespace(samples=samples['fc'], elements=elements, check_classes=list)

    prior = ClassPrior.build({'sky': 3, 'pole': 1})
    found = sources.one_passes_of(make, 'best', training, validation, prior, True)
    assert 'Fewer than 4 of the validation images that choose have pole' in capsys.readouterr().out
    assert {name: own.samples.label.tolist() for name, own in found.items()} == {
        'train': [0, 1],
        'val': [1, 0, 0, 0, 0],
        'both': [0, 1, 0, 0, 0, 0],
    }
    # Twice as many elements as valid ones in training, thrice in validation.
    total = found['both'].samples.weight.sum()
    assert found['both'].elements['fc'] == pytest.approx(2.5 * total)


def test_a_choice_within_a_data_set_is_of_its_images() -> None:
    choice = every_image(2, 2, ClassPrior.build([1, 1])).within(np.array([3, 7]), 10)
    assert choice.index.tolist() == [3, 7, 13, 17]


def test_transforms_of_several_images_would_mix_the_halves() -> None:
    leaf = dict(type='BaseSegDataset', pipeline=[])
    mosaic = dict(type='MultiImageMixDataset', dataset=leaf, pipeline=[dict(type='RandomMosaic')])
    cfg = Config(dict(train_dataloader=dict(dataset=mosaic)))
    with pytest.raises(ValueError, match='MultiImageMixDataset makes one training image of'):
        sources.FitOnValidation(cfg, passing=None)


@pytest.fixture(scope='module')
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('fit_on')
    write_stage1(root, num_train=88, num_val=22, num_workers=0)
    return root


def calibrate(repo: Path, project: Path, *options: object, fails: bool = False) -> str:
    tool = [sys.executable, repo / 'tools/calibrate.py', 'stage1.py', 'stage1.pth']
    tool += ['--passes', 1, '--images-per-class', 4]
    return run(repo, project, *tool, *options, ok=not fails)


def test_all_sources_are_compared_and_none_sees_what_reports(repo: Path, project: Path) -> None:
    options = ['--fit-on', 'best', '--method', 'lws', '--cache-dir', 'kept']
    calibrate(repo, project, *options, '--out', 'best.pth')
    rows = json.loads((project / 'best_methods.json').read_text())['methods'][1:]
    assert [row['fit_on'] for row in rows] == ['train', 'val', 'both']
    best = max(rows, key=lambda row: row['chosen_by'])
    checkpoint = torch.load(project / 'best.pth', weights_only=False)
    assert checkpoint['meta']['fit_on'] == best['fit_on']
    # Numbers of the images whose samples were fitted to, from the files.
    (found,) = (project / 'kept/fitted').glob('samples_*/*/0/image.bin')
    seen = set(np.unique(np.fromfile(found, np.int32)).tolist()) - {0}
    names = sorted(str(path) for path in (project / 'scenes/images/validation').iterdir())
    names = [name[len(str(project)) + 1 :] for name in names]
    numbers = image_numbers(_Named(names), np.arange(len(names)))
    choosing = set(folds(np.unique(numbers), seed=0)[0].tolist())
    assert seen and seen <= choosing and len(choosing) == len(names) / 2


class _Named:
    """A data set that tells the names of its images."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def get_data_info(self, index: int) -> dict[str, str]:
        return {'img_path': self.names[index]}


def test_disalign_is_fitted_to_validation_images_with_a_given_rho(
    repo: Path, project: Path
) -> None:
    options = ['--fit-on', 'val', '--exp-scale', 0.4, '--no-split-val', '--out', 'val.pth']
    output = calibrate(repo, project, *options)
    assert re.search(r'^\| disalign *\| val *\| *0.4 ', output, re.MULTILINE)
    assert 'so it flatters' in output and 'ρ = 0.4. Written to val.pth' in output
    meta = torch.load(project / 'val.pth', weights_only=False)['meta']
    assert (meta['fit_on'], meta['exp_scale']) == ('val', 0.4)
    assert not list(project.glob('val.samples*'))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--choose', 'train'], '--fit-on val takes validation images: leave --choose train out'),
        (
            [
                '--cfg-options',
                'val_dataloader.dataset.data_prefix.img_path=images/training',
                'val_dataloader.dataset.data_prefix.seg_map_path=annotations/training',
            ],
            '--fit-on val takes labelled validation images, that choose and report, too: the '
            'validation images are among',
        ),
    ],
)
def test_without_validation_images_it_says_so(
    repo: Path, project: Path, options: list[str], message: str
) -> None:
    output = calibrate(repo, project, '--fit-on', 'val', *options, '--out', 'no.pth', fails=True)
    assert f'error: {message}' in output and not (project / 'no.pth').exists()
