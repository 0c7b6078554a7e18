"""Saved predictions, evaluated, compared and drawn as tools/analyze.py does it."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import mmengine
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image
from pycocotools import mask as mask_utils

from mmdisalign.analysis import Evaluation
from mmdisalign.analysis.bootstrap import once
from mmdisalign.calibration import ClassPrior
from mmdisalign.engine.configs import model_config
from mmdisalign.onepass.confidence import learned

PRIOR = dict(source=[80, 15, 5], groups=dict(head=[0], body=[1], tail=[2]))
CLASSES = ('road', 'car', 'bicycle')


@pytest.fixture(scope='module')
def analyze() -> ModuleType:
    """The script, as a module."""
    path = Path(__file__).parent.parent / 'tools/analyze.py'
    spec = importlib.util.spec_from_file_location('analyze', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(analyze: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, 'argv', ['analyze.py', *map(str, arguments)])
    analyze.main()


def intervals(page: str) -> dict[str, tuple[float, float]]:
    """What the section says, of one comparison, by name of the mean."""
    section = page[page.index('How sure a gain is') :]
    rows = re.findall(r'<tr>(.*?)</tr>', section[: section.index('</table>')], re.DOTALL)[1:]
    cells = [re.findall(r'<td[^>]*>\s*(.*?)\s*</td>', row, re.DOTALL) for row in rows]
    return {name: (float(low), float(high)) for name, low, high in cells}


@pytest.mark.parametrize('of', ['segmentation', 'detection', 'classification'])
def test_what_each_image_counts_comes_to_what_the_metric_says(
    of: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    given = request.getfixturevalue(of)
    cfg = Config.fromfile(given['config'])
    init_default_scope(cfg.default_scope)
    module = importlib.import_module(f'mmdisalign.{of}.predictions')
    saved = module.SavedPredictions(cfg.test_dataloader.dataset, ClassPrior.build(PRIOR))
    path = given['root'] / ('after' if of == 'segmentation' else 'after.pkl')
    found = once(saved.judged(path), len(saved.dataset))
    summary = saved.evaluate(path, tmp_path / 'after.json').summary
    names = {
        'segmentation': dict(mIoU='mIoU', head='mHeadIoU', body='mBodyIoU', tail='mTailIoU'),
        'detection': dict(AP='bbox_AP', APbody='bbox_APbody', APtail='bbox_APtail'),
        'classification': dict(top1='top1', mean='mean', many='many', few='few'),
    }[of]
    for own, name in names.items():
        # mmseg rounds to two digits.
        assert found[own] == pytest.approx(summary[name], abs=5.1e-3), own


def prior_file(folder: Path) -> Path:
    path = folder / 'prior.json'
    prior = ClassPrior.build(PRIOR)
    ClassPrior(prior.counts, CLASSES, prior.groups).to_json(path)
    return path


@pytest.fixture
def segmentation(tmp_path: Path) -> dict[str, Any]:
    """Two images of 4 x 6 pixels, and a config that is not of ours."""
    truth = {'one': np.array([[1, 1, 2, 2, 3, 3]] * 4), 'two': np.array([[1, 0, 2, 2, 3, 1]] * 4)}
    for folder in ('images', 'annotations', 'before', 'after'):
        (tmp_path / folder).mkdir()
    for name, labels in truth.items():
        image = np.full((*labels.shape, 3), 90, np.uint8)
        Image.fromarray(image).save(tmp_path / f'images/{name}.jpg')
        predicted = {
            'annotations': labels,
            'before': np.where(labels == 3, 1, labels),
            # The first image has its bicycles now, the second has not.
            'after': labels if name == 'one' else np.where(labels == 3, 2, labels),
        }
        for folder, own in predicted.items():
            Image.fromarray(own.astype(np.uint8)).save(tmp_path / f'{folder}/{name}.png')
    config = tmp_path / 'config.py'
    config.write_text(
        "default_scope = 'mmseg'\n"
        "dataset = dict(type='BaseSegDataset', reduce_zero_label=True, pipeline=[],\n"
        f"    metainfo=dict(classes={CLASSES}), data_root='{tmp_path}',\n"
        "    data_prefix=dict(img_path='images', seg_map_path='annotations'))\n"
        'test_dataloader = dict(dataset=dict(**dataset))\n'
        "test_evaluator = dict(type='IoUMetric')\n"
    )
    return dict(root=tmp_path, config=config, prior=prior_file(tmp_path))


def test_label_maps_make_a_report(segmentation, analyze, monkeypatch) -> None:
    root = segmentation['root']
    options = ['--config', segmentation['config'], '--prior', segmentation['prior']]
    command = [root / 'before', root / 'after', *options, '--images', 5, '--out', root / 'report']
    run(analyze, monkeypatch, *command, '--intervals')
    before, after = (
        Evaluation.load(root / f'report/results/{n}.json') for n in ('before', 'after')
    )
    # Bicycles: none of 12 before, 8 of 12 after. Cars: 16 right, and 4 bicycles besides.
    assert before.per_class['IoU'][2] == 0
    assert after.per_class['IoU'] == [100, 80, pytest.approx(100 * 8 / 12, abs=1e-3)]
    assert after.confusion['tail'] == dict(head=0, body=4, tail=8)
    text = (root / 'report/index.html').read_text()
    # Bicycles gain 100 points in the first image, none in the second.
    assert intervals(text)['tail'] == (0, 100)
    assert 'one.jpg: 8 pixels changed, 8 to the right class, 0 from it' in text
    assert 'two.jpg: 4 pixels changed, 0 to the right class, 0 from it' in text
    assert len(list((root / 'report/images').iterdir())) == 2 * 3


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda root: (root / 'after/two.png').unlink(), r'two\.png is missing.*all 2 images'),
        (
            lambda root: Image.new('L', (5, 4)).save(root / 'after/two.png'),
            r'two\.png is \(4, 5\), the ground truth \(4, 6\)',
        ),
    ],
)
def test_maps_that_do_not_fit_are_named(
    segmentation, analyze, monkeypatch, change, message
) -> None:
    root = segmentation['root']
    change(root)
    options = ['--config', segmentation['config'], '--prior', segmentation['prior']]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(
            analyze,
            monkeypatch,
            root / 'before',
            root / 'after',
            *options,
            '--out',
            root / 'report',
        )
    assert not (root / 'report/index.html').exists()


BOXES = [[10, 10, 30, 30], [50, 50, 80, 80]]


def detections(labels: list[int], img_id: int) -> dict:
    masks = np.zeros((100, 100, len(labels)), np.uint8, order='F')
    for number, (x1, y1, x2, y2) in enumerate(BOXES[: len(labels)]):
        masks[y1:y2, x1:x2, number] = 1
    return dict(
        img_id=img_id,
        pred_instances=dict(
            bboxes=torch.tensor(BOXES[: len(labels)], dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor(labels, dtype=torch.int64),
            scores=torch.full((len(labels),), 0.9),
            masks=mask_utils.encode(masks),
        ),
    )


@pytest.fixture
def detection(tmp_path: Path) -> dict[str, Any]:
    """Three images with a car and a bicycle each, but for the last, which has nothing."""
    (tmp_path / 'images').mkdir()
    images = [
        dict(id=i, file_name=f'{i}.jpg', height=100, width=100, coco_url=f'/images/{i}.jpg')
        for i in (1, 2, 3)
    ]
    for image in images:
        Image.new('RGB', (100, 100)).save(tmp_path / 'images' / image['file_name'])
    annotations = [
        dict(
            id=2 * image + number,
            image_id=image,
            category_id=number + 2,
            bbox=[x1, y1, x2 - x1, y2 - y1],
            area=(x2 - x1) * (y2 - y1),
            iscrowd=0,
            segmentation=[[x1, y1, x2, y1, x2, y2, x1, y2]],
        )
        for image in (1, 2)
        for number, (x1, y1, x2, y2) in enumerate(BOXES)
    ]
    categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES, start=1)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (tmp_path / 'annotations.json').write_text(json.dumps(content))
    mmengine.dump([detections([1, 1], 1), detections([1, 1], 2), detections([], 3)],
                  tmp_path / 'before.pkl')  # fmt: skip
    mmengine.dump([detections([1, 2], 1), detections([1, 1], 2), detections([], 3)],
                  tmp_path / 'after.pkl')  # fmt: skip
    config = tmp_path / 'config.py'
    config.write_text(
        "default_scope = 'mmdet'\n"
        "test_dataloader = dict(dataset=dict(type='CocoDataset', test_mode=True, pipeline=[],\n"
        f"    metainfo=dict(classes={CLASSES}), data_root='{tmp_path}',\n"
        "    ann_file='annotations.json', data_prefix=dict(img='images')))\n"
        "test_evaluator = dict(type='CocoMetric')\n"
    )
    return dict(root=tmp_path, config=config, prior=prior_file(tmp_path))


def test_detections_make_a_report(detection, analyze, monkeypatch) -> None:
    root = detection['root']
    options = ['--config', detection['config'], '--prior', detection['prior']]
    command = [root / 'before.pkl', root / 'after.pkl', *options, '--images', 5]
    run(analyze, monkeypatch, *command, '--out', root / 'report', '--intervals')
    after = Evaluation.load(root / 'report/results/after.json')
    assert after.confusion['tail'] == dict(head=0, body=1, tail=1)
    # Half of the bicycles found, without a wrong one: 51 of 101 recalls have a precision of 1.
    assert after.per_class['segm_AP'][2] == pytest.approx(100 * 51 / 101, abs=1e-3)
    text = (root / 'report/index.html').read_text()
    assert '1.jpg: 1 instances changed, 1 to the right class, 0 from it' in text
    assert '2.jpg:' not in text  # nothing changed there
    assert intervals(text)['APtail'][0] == 0 < intervals(text)['APtail'][1]
    assert len(list((root / 'report/images').iterdir())) == 3


def test_predictions_of_other_images_are_refused(detection, analyze, monkeypatch) -> None:
    root = detection['root']
    mmengine.dump([detections([1], 1)], root / 'after.pkl')
    options = ['--config', detection['config'], '--prior', detection['prior']]
    command = [root / 'before.pkl', root / 'after.pkl', *options, '--out', root / 'report']
    with pytest.raises(ValueError, match=r'after\.pkl .* 3 images of the test data, but it has 1'):
        run(analyze, monkeypatch, *command)


@pytest.fixture
def classification(tmp_path: Path) -> dict[str, Any]:
    """Four images in folders by class, and a config that is not of ours."""
    labels = [0, 1, 2, 2]
    for number, label in enumerate(labels):
        folder = tmp_path / 'val' / f'{label}_{CLASSES[label]}'
        folder.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 8)).save(folder / f'{number}.png')
    for name, predicted in dict(before=[0, 1, 0, 0], after=[0, 0, 2, 0]).items():
        samples = [
            dict(
                pred_score=torch.eye(3)[best] * 0.8 + 0.1,
                gt_label=torch.tensor([label]),
                sample_idx=number,
            )
            for number, (best, label) in enumerate(zip(predicted, labels))
        ]
        (tmp_path / f'{name}.pkl').write_bytes(pickle.dumps(samples))
    config = tmp_path / 'config.py'
    config.write_text(
        "default_scope = 'mmpretrain'\n"
        "test_dataloader = dict(dataset=dict(type='CustomDataset', pipeline=[],\n"
        f"    metainfo=dict(classes={CLASSES}), data_root='{tmp_path}', data_prefix='val'))\n"
        f"test_evaluator = dict(type='LongTailAccuracy', class_prior={PRIOR})\n"
    )
    return dict(root=tmp_path, config=config)


def test_scores_make_a_report_with_the_prior_of_the_evaluator(
    classification, analyze, monkeypatch, capsys
) -> None:
    root = classification['root']
    options = ['--config', classification['config'], '--images', 5, '--out', root / 'report']
    options.append('--intervals')
    run(analyze, monkeypatch, root / 'before.pkl', root / 'after.pkl', *options)
    after = Evaluation.load(root / 'report/results/after.json')
    assert after.per_class['accuracy'] == [100, 0, 50]
    assert after.confusion['few'] == dict(many=1, medium=0, few=1)
    text = (root / 'report/index.html').read_text()
    assert '2.png' in text and '3.png' not in text
    # Of two images of the few, one is right now: a draw may have it alone, or not at all.
    assert intervals(text)['few'] == (0, 100) and intervals(text)['many'] == (0, 0)
    assert 'few rose by 50.0 to 50.0 %, medium fell by 100.0 to 0.0 %' in capsys.readouterr().out


class Exploit:
    def __reduce__(self) -> tuple:
        return os.mkdir, ('ran',)


def test_predictions_that_would_run_code_or_are_of_another_library_are_refused(
    classification, analyze, monkeypatch
) -> None:
    root = classification['root']
    monkeypatch.chdir(root)
    command = [root / 'before.pkl', root / 'bad.pkl', '--config', classification['config']]
    for content, message in (
        ([Exploit()] * 4, r'bad\.pkl is refused: it asks for posix\.mkdir'),
        ([{'pred_instances': {}}] * 4, r'bad\.pkl: prediction 0 has no sample_idx, gt_label'),
    ):
        (root / 'bad.pkl').write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match=message):
            run(analyze, monkeypatch, *command, '--out', root / 'report')
    assert not (root / 'ran').exists()


def result(path: Path, accuracy: float) -> Path:
    groups, per_class = dict(many=[0], medium=[1], few=[2]), dict(accuracy=[accuracy] * 3)
    summary = dict(top1=accuracy, mean=accuracy)
    Evaluation(summary, CLASSES, groups, [0.8, 0.15, 0.05], per_class).save(path)
    return path


def test_result_files_and_a_checkpoint_need_no_config(tmp_path, analyze, monkeypatch) -> None:
    files = [result(tmp_path / 'a.json', 40.0), result(tmp_path / 'b.json', 50.0)]
    state = {'head.calibration.magnitude': torch.arange(3.0)}
    state['head.calibration.margin'] = torch.zeros(3)
    torch.save(dict(state_dict=state), tmp_path / 'after.pth')
    options = ['--checkpoint', tmp_path / 'after.pth', '--names', 'stage 1', 'DisAlign']
    run(analyze, monkeypatch, *files, *options, '--out', tmp_path / 'report')
    assert (tmp_path / 'report/figures/head.calibration_alpha_beta.png').is_file()
    text = (tmp_path / 'report/index.html').read_text()
    assert 'From stage 1 to DisAlign, mean accuracy rose by 10.0 to 50.0 %' in text


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--images', 3], 'give what test.py --out saved'),
        (['--intervals'], '--intervals needs predictions: give what test.py --out saved'),
        (['--checkpoint', 'plain.pth'], 'it is not a DisAlign checkpoint'),
        (['--checkpoint', 'none.pth'], r'there is no none\.pth'),
        (['--config', 'none.py'], r'there is no none\.py'),
        (['--names', 'same', 'same'], 'same name: same, same'),
    ],
)
def test_what_cannot_be_shown_is_said(tmp_path, analyze, monkeypatch, options, message) -> None:
    monkeypatch.chdir(tmp_path)
    files = [result(tmp_path / 'a.json', 40.0), result(tmp_path / 'b.json', 50.0)]
    torch.save(dict(state_dict={'head.fc.weight': torch.zeros(3, 2)}), 'plain.pth')
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(analyze, monkeypatch, *files, *options, '--out', 'report')


def test_predictions_need_their_config_and_frequencies(segmentation, analyze, monkeypatch) -> None:
    root = segmentation['root']
    folders = [root / 'before', root / 'after', '--out', root / 'report']
    with pytest.raises(ValueError, match='need --config'):
        run(analyze, monkeypatch, *folders)
    with pytest.raises(ValueError, match='--prior says which'):
        run(analyze, monkeypatch, *folders, '--config', segmentation['config'])
    with pytest.raises(FileNotFoundError, match='there is no nowhere'):
        run(analyze, monkeypatch, 'nowhere', *folders, '--config', segmentation['config'])


def test_an_image_that_had_no_detection_is_drawn(detection, analyze, monkeypatch) -> None:
    root = detection['root']
    nothing = [detections([], 1), detections([1, 1], 2), detections([], 3)]
    mmengine.dump(nothing, root / 'before.pkl')
    options = ['--config', detection['config'], '--prior', detection['prior'], '--images', 5]
    names = ['--names', 'stage/1', 'stage 2']
    command = [root / 'before.pkl', root / 'after.pkl', *options, *names]
    run(analyze, monkeypatch, *command, '--out', root / 'report')
    text = (root / 'report/index.html').read_text()
    # The car was not seen either, but is not of the tail.
    assert '1.jpg: 1 instances changed, 1 to the right class, 0 from it' in text
    assert (root / 'report/images/1_2_stage_1.jpg').is_file()


def test_masks_are_left_out_where_the_truth_has_none(detection, analyze, monkeypatch) -> None:
    root = detection['root']
    content = json.loads((root / 'annotations.json').read_text())
    for annotation in content['annotations']:
        del annotation['segmentation']
    (root / 'annotations.json').write_text(json.dumps(content))
    options = ['--config', detection['config'], '--out', root / 'report']
    run(analyze, monkeypatch, root / 'before.pkl', root / 'after.pkl', *options)
    # Nor is a prior needed to compare the classes.
    assert list(Evaluation.load(root / 'report/results/after.json').per_class) == ['bbox_AP']
    with pytest.raises(ValueError, match='no group is known: give --prior'):
        run(analyze, monkeypatch, root / 'before.pkl', root / 'after.pkl', *options, '--images', 1)


def test_a_prior_of_the_model_will_do(classification, analyze, monkeypatch) -> None:
    root, config = classification['root'], classification['config']
    text = config.read_text()
    config.write_text(
        text[: text.index('test_evaluator')]
        + f"test_evaluator = dict(type='Accuracy')\nmodel = dict(class_prior={PRIOR})\n"
    )
    options = ['--config', config, '--out', root / 'report']
    run(analyze, monkeypatch, root / 'before.pkl', root / 'after.pkl', *options)
    assert (root / 'report/index.html').is_file()


def test_a_prior_is_found_among_several_evaluators(classification, analyze, monkeypatch) -> None:
    root, config = classification['root'], classification['config']
    with config.open('a') as file:
        file.write("test_evaluator = [dict(type='Accuracy'), test_evaluator]\n")
    command = [root / 'before.pkl', root / 'after.pkl', '--config', config]
    run(analyze, monkeypatch, *command, '--out', root / 'report')
    assert Evaluation.load(root / 'report/results/after.json').groups['few'] == [2]


def test_a_checkpoint_of_other_classes_is_named(tmp_path, analyze, monkeypatch) -> None:
    files = [result(tmp_path / 'a.json', 40.0), result(tmp_path / 'b.json', 50.0)]
    state = {f'head.calibration.{name}': torch.zeros(7) for name in ('magnitude', 'margin')}
    torch.save(dict(state_dict=state), tmp_path / 'other.pth')
    with pytest.raises(ValueError, match='has 7 classes, the evaluations have 3'):
        options = ['--checkpoint', tmp_path / 'other.pth', '--out', tmp_path / 'report']
        run(analyze, monkeypatch, *files, *options)


def test_confidence_is_observed_as_the_runner_builds_the_model(tmp_path: Path) -> None:
    # mmpretrain configs have the preprocessor beside the model.
    cfg = Config(dict(model=dict(type='a'), data_preprocessor=dict(mean=[1])))
    assert model_config(cfg) == dict(type='a', data_preprocessor=dict(mean=[1]))
    cfg.model.data_preprocessor = dict(mean=[2])
    assert model_config(cfg)['data_preprocessor'] == dict(mean=[2])


def test_images_with_several_labels_make_a_report(
    classification, analyze, monkeypatch, capsys
) -> None:
    root, labels = classification['root'], [[0, 1], [0], [2], []]
    content = dict(
        metainfo=dict(classes=CLASSES),
        data_list=[
            dict(img_path=path.relative_to(root / 'val').as_posix(), gt_label=own)
            for path, own in zip(sorted((root / 'val').rglob('*.png')), labels)
        ],
    )
    (root / 'labels.json').write_text(json.dumps(content))
    found = dict(before=[[0, 1], [0], [], [2]], after=[[0], [0], [2], []])
    for name, predicted in found.items():
        samples = [
            dict(
                pred_score=torch.zeros(3).index_fill(0, torch.tensor(own, dtype=torch.long), 0.9),
                pred_label=torch.tensor(own, dtype=torch.long),
                gt_label=torch.tensor(truth, dtype=torch.long),
                sample_idx=number,
            )
            for number, (own, truth) in enumerate(zip(predicted, labels))
        ]
        (root / f'{name}.pkl').write_bytes(pickle.dumps(samples))
    config = root / 'several.py'
    config.write_text(
        "default_scope = 'mmpretrain'\n"
        "test_dataloader = dict(dataset=dict(type='MultiLabelDataset', pipeline=[],\n"
        f"    ann_file='{root}/labels.json', data_prefix='{root}/val'))\n"
        "test_evaluator = dict(type='AveragePrecision')\n"
    )
    options = ['--config', config, '--prior', prior_file(root), '--images', 5]
    command = [root / 'before.pkl', root / 'after.pkl', *options, '--out', root / 'report']
    run(analyze, monkeypatch, *command)
    after = Evaluation.load(root / 'report/results/after.json')
    assert after.per_class['AP'][2] == pytest.approx(100, abs=1e-3)
    assert after.confusion is None
    text = (root / 'report/index.html').read_text()
    # Of the rarest class, the third image gained its label, and the last lost one.
    assert '2.png' in text and '3.png' in text and '1.png' not in text
    assert 'few rose by' in capsys.readouterr().out


def test_a_calibration_that_layers_share_is_told_once() -> None:
    own = {'magnitude': torch.ones(2), 'margin': torch.ones(2), 'confidence.weight': torch.ones(3)}
    other = {**own, 'confidence.weight': torch.zeros(3)}
    layers = {'head.2.calibration': own, 'head.10.calibration': own, 'head.0.calibration': other}
    state = {f'{at}.{key}': v.clone() for at, part in layers.items() for key, v in part.items()}
    ones = [1.0, 1.0]
    expected = {'head.2.calibration': (ones, ones), 'head.0.calibration': (ones, ones)}
    assert learned(state) == expected
