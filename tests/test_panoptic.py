"""Panoptic data: what is counted, panoptic quality by frequency, the report, and the tools."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mmengine
import numpy as np
import pytest
import torch
from mmdet.evaluation.functional import panoptic_utils
from mmdet.registry import DATASETS, MODELS, TRANSFORMS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image
from project import PANOPTIC, run, save_untrained, write_panoptic

from mmdisalign import cli
from mmdisalign.analysis import Evaluation
from mmdisalign.calibration import ClassPrior
from mmdisalign.counting import CountError
from mmdisalign.counting.counting import classes_of_images
from mmdisalign.detection import LongTailPanopticMetric
from mmdisalign.detection.count import count_instances
from mmdisalign.detection.lvis_eval import GroundTruth
from mmdisalign.detection.panoptic_quality import Matches, PanopticTruth, Segments, match

NAMES = ['cat', 'dog', 'sky', 'grass']
META = dict(classes=NAMES, thing_classes=NAMES[:2], stuff_classes=NAMES[2:])
# A column each: a cat, another, sky, grass, a crowd of dogs, and what is of no segment.
IDS = np.array([[300, 301, 2, 3, 4, 0]] * 6)
CATEGORIES = {300: 1, 301: 1, 2: 7, 3: 8, 4: 5}
IS_THING = np.array([True, True, False, False])


@pytest.fixture(autouse=True)
def scope() -> None:
    init_default_scope('mmdet')


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two images alike, in COCO's panoptic format."""
    for folder in ('images', 'segments'):
        (tmp_path / folder).mkdir()
    segments = [
        dict(id=i, category_id=c, iscrowd=int(c == 5), area=6, bbox=[0, 0, 1, 6])
        for i, c in CATEGORIES.items()
    ]
    colours = np.stack([IDS % 256, IDS // 256, 0 * IDS], axis=-1).astype(np.uint8)
    images, annotations = [], []
    for number in (1, 2):
        Image.new('RGB', IDS.shape[::-1]).save(tmp_path / f'images/{number}.jpg')
        Image.fromarray(colours).save(tmp_path / f'segments/{number}.png')
        images.append(dict(id=number, file_name=f'{number}.jpg', height=6, width=6))
        annotations.append(dict(image_id=number, file_name=f'{number}.png', segments_info=segments))
    categories = [dict(id=i, name=name, isthing=int(i < 7)) for i, name in zip((1, 5, 7, 8), NAMES)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (tmp_path / 'truth.json').write_text(json.dumps(content))
    return tmp_path


def dataset(root: Path) -> dict[str, Any]:
    return dict(
        type='CocoPanopticDataset',
        data_root=str(root),
        metainfo=META,
        ann_file='truth.json',
        data_prefix=dict(img='images/', seg='segments/'),
        pipeline=[],
    )


def metric(root: Path, **options: Any) -> LongTailPanopticMetric:
    made = LongTailPanopticMetric(str(root / 'truth.json'), str(root / 'segments'), **options)
    made.dataset_meta = META
    return made


def sample(number: int, panoptic: np.ndarray) -> dict[str, Any]:
    maps = torch.from_numpy(panoptic.copy())[None]
    return dict(img_id=number, pred_panoptic_seg=dict(sem_seg=maps))


def predicted(*columns: int) -> np.ndarray:
    return np.array([columns] * 6)


# As mmdet predicts: label + 1000 x number of the thing; 4, the number of classes, is no segment.
PERFECT = predicted(1000, 2000, 2, 3, 4, 4)


# Counting


def test_things_are_counted_one_by_one_stuff_by_image_and_crowds_not(data: Path) -> None:
    for prior in (count_instances(dataset(data)), ClassPrior.build(str(data / 'truth.json'))):
        assert prior.classes == tuple(NAMES)
        assert prior.counts.tolist() == [4, 0, 2, 2]
        assert prior.images.tolist() == [2, 0, 2, 2]


def test_the_classes_of_an_image_are_its_things_and_its_stuff(data: Path) -> None:
    content = json.loads((data / 'truth.json').read_text())
    content['annotations'][1]['segments_info'][-1]['iscrowd'] = 0  # the dogs are some, there
    (data / 'truth.json').write_text(json.dumps(content))
    found = classes_of_images('detection', DATASETS.build(dataset(data)), 4)
    assert [own.tolist() for own in found] == [[0, 2, 3], [0, 1, 2, 3]]


def test_classes_that_mmdet_cannot_leave_out_are_named(data: Path) -> None:
    config = {**dataset(data), 'metainfo': dict(META, classes=NAMES[:3])}
    message = r'truth\.json: segment 3 of image 1 has category 8, which is none of the 3 classes'
    with pytest.raises(CountError, match=message):
        count_instances(config)


# Panoptic quality


def test_a_perfect_prediction(data: Path) -> None:
    groups = dict(head=[0], body=[1, 2], tail=[3])
    own = metric(data, class_prior=dict(source=[40, 5, 30, 1], groups=groups))
    own.process({}, [sample(1, PERFECT), sample(2, PERFECT)])
    found = {key.removeprefix('coco_panoptic/'): mean for key, mean in own.evaluate(2).items()}
    # Of the dogs there is a crowd alone: they are left out of the means.
    assert found == dict.fromkeys(found, 100)
    assert {'PQ', 'SQ_th', 'RQ_st', 'PQhead', 'PQtail'} < set(found)


def test_worked_example(data: Path, tmp_path: Path) -> None:
    groups = dict(head=['cat'], body=['sky', 'grass'], tail=['dog'])
    prior = dict(source=dict(cat=40, dog=1, sky=30, grass=5), groups=groups)
    own = metric(data, class_prior=prior, result_file=str(tmp_path / 'result.json'))
    one = PERFECT.copy()
    one[:2, 0] = 4  # two of six pixels of a cat are not seen: an IoU of 2/3
    one[:, 1] = 3001  # the other is taken for a dog
    one[4:, 2] = 3  # grass, of which a fourth of the pixels is sky
    two = predicted(1000, 1000, 3, 2, 1001, 1001)  # one cat for two; sky for grass
    own.process({}, [sample(1, one), sample(2, two)])
    found = own.evaluate(2)
    result = Evaluation.load(tmp_path / 'result.json')
    # Cats: one found with 2/3, three missed, one wrong. Dogs: one wrong; that on the crowd is not.
    # Sky and grass of the first image: 4/6, and 6/8; of the second, one missed and one wrong each.
    assert result.per_class['PQ'] == pytest.approx(
        [100 * 2 / 3 / 3, 0, 100 * 4 / 6 / 2, 100 * 6 / 8 / 2], abs=1e-3
    )
    assert result.per_class['SQ'] == pytest.approx([200 / 3, 0, 200 / 3, 75], abs=1e-3)
    assert result.per_class['RQ'] == pytest.approx([100 / 3, 0, 50, 50], abs=1e-3)
    assert found['coco_panoptic/PQbody'] == pytest.approx(np.mean([100 / 3, 37.5]))
    assert found['coco_panoptic/PQ_th'] == pytest.approx(100 / 9)
    assert result.summary['PQtail'] == 0
    # Half a wide cat is no cat; sky and grass are of one group.
    assert result.confusion == dict(
        head=dict(head=1, body=0, tail=1, missed=2),
        body=dict(head=0, body=4, tail=0, missed=0),
        tail=dict(head=0, body=0, tail=0, missed=0),
    )


def test_agrees_with_mmdet(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mmdet has the matching of panopticapi, of which it wants sums by class and of colours."""

    class Sums(dict):
        def __missing__(self, key: int) -> SimpleNamespace:
            return self.setdefault(key, SimpleNamespace(iou=0.0, tp=0, fp=0, fn=0))

    def ids_of(colours: np.ndarray) -> np.ndarray:
        return colours.astype(int) @ [1, 256, 256**2]

    monkeypatch.setattr(panoptic_utils, 'PQStat', Sums)
    monkeypatch.setattr(panoptic_utils, 'rgb2id', ids_of)
    truth = PanopticTruth(data / 'truth.json', str(data / 'segments'))
    segments = json.loads((data / 'truth.json').read_text())['annotations'][0]['segments_info']
    rng = np.random.default_rng(0)
    found, sums = [], Sums()
    for _ in range(60):
        panoptic = np.where(rng.random((6, 6)) < 0.3, rng.choice([1000, 1001, 2, 3, 4]), PERFECT)
        panoptic = np.where(rng.random((1, 6)) < 0.2, rng.choice([2001, 3, 4]), panoptic)
        found.append(match(truth.segments(1), Segments.predicted(panoptic, IS_THING)))
        shown = np.where(panoptic == 4, 0, panoptic)  # where there is no segment
        colours = np.stack([shown % 256, shown // 256, 0 * shown], axis=-1).astype(np.uint8)
        Image.fromarray(colours).save(data / 'predicted.png')
        own = [
            dict(id=int(i), category_id=(1, 5, 7, 8)[i % 1000]) for i in np.unique(shown) if i > 0
        ]
        gt = dict(image_id=1, file_name='segments/1.png', segments_info=segments)
        pair = (gt, dict(image_id=1, file_name='predicted.png', segments_info=own))
        categories = dict.fromkeys((1, 5, 7, 8))
        for category, other in panoptic_utils.pq_compute_single_core(
            0, [pair], str(data), str(data), categories
        ).items():
            mine = sums[category]
            for name in vars(mine):
                setattr(mine, name, getattr(mine, name) + getattr(other, name))
    quality = Matches.joined(found).quality(4)
    expected = [
        s.iou / (s.tp + s.fp / 2 + s.fn / 2) for s in (sums[category] for category in (1, 5, 7, 8))
    ]
    assert min(s.tp for c, s in sums.items() if c != 5) > 10  # the draw has something to match
    assert quality['PQ'].tolist() == pytest.approx(expected, abs=1e-12)


def test_void_that_mmdets_metric_marks_in_place_is_no_thing() -> None:
    # On a CPU, the map that is saved is the one that mmdet's metric writes its 0 into.
    marked = np.where(PERFECT == 4, 0, PERFECT)
    assert Segments.predicted(marked, IS_THING).labels[0].tolist() == [0, 0, 2, 3, -1, -1]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(img_id=9), r'image 9 is not in .*truth\.json'),
        (dict(pred_panoptic_seg=dict(sem_seg=torch.zeros(1, 3, 3))), r'\(3, 3\) pixels.*\(6, 6\)'),
    ],
)
def test_predictions_of_other_images_are_refused(data: Path, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric(data).process({}, [sample(1, PERFECT) | change])


def test_what_cannot_be_evaluated_is_said(data: Path) -> None:
    with pytest.raises(KeyError, match='set panoptic_on=True'):
        metric(data).process({}, [dict(img_id=1, pred_instances=dict())])
    with pytest.raises(FileNotFoundError, match='seg_prefix of LongTailPanopticMetric'):
        LongTailPanopticMetric(str(data / 'truth.json'), str(data / 'nowhere'))
    with pytest.raises(ValueError, match='has 3 of the 4 classes of'):
        metric(data).dataset_meta = dict(classes=NAMES[:3])
    with pytest.raises(ValueError, match='is panoptic: LongTailPanopticMetric evaluates it'):
        GroundTruth(data / 'truth.json', ['bbox'])
    (data / 'other.json').write_text('{"categories": [{"id": 1, "name": "cat"}]}')
    with pytest.raises(ValueError, match=r"other\.json is no panoptic .*'isthing' is not there"):
        LongTailPanopticMetric(str(data / 'other.json'), str(data / 'segments'))


def test_what_mmdet_needs_besides_is_said_in_a_line(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, 'panopticapi', None)  # not installed
    with pytest.raises(SystemExit):
        cli.run(lambda: TRANSFORMS.build(dict(type='LoadPanopticAnnotations')))
    said = capsys.readouterr().err
    assert said.startswith('error: ') and 'panopticapi is not installed' in said
    assert said.count('\n') == 1


# The report


def analyze(monkeypatch: pytest.MonkeyPatch, repo: Path, root: Path, *options: object) -> None:
    import runpy

    predictions = [str(root / 'before.pkl'), str(root / 'after.pkl')]
    config = ['--config', str(root / 'config.py'), '--out', str(root / 'report')]
    monkeypatch.setattr(sys, 'argv', ['analyze.py', *predictions, *config, *map(str, options)])
    runpy.run_path(str(repo / 'tools/analyze.py'), run_name='__main__')


@pytest.fixture
def saved(data: Path) -> Path:
    """Predictions as ``test.py --out`` saves them: a cat that was grass is found."""
    worse = PERFECT.copy()
    worse[:, 1] = 3
    mmengine.dump([sample(1, worse), sample(2, PERFECT)], data / 'before.pkl')
    mmengine.dump([sample(1, PERFECT), sample(2, PERFECT)], data / 'after.pkl')
    config = f"default_scope = 'mmdet'\ntest_dataloader = dict(dataset={dataset(data)!r})\n"
    (data / 'config.py').write_text(config + "test_evaluator = dict(type='CocoPanopticMetric')\n")
    groups = dict(head=[2, 3], body=[1], tail=[0])
    ClassPrior([2, 3, 9, 9], NAMES, groups).to_json(data / 'prior.json')
    return data


def test_panoptic_maps_make_a_report(saved: Path, repo: Path, monkeypatch, capsys) -> None:
    analyze(monkeypatch, repo, saved, '--prior', saved / 'prior.json', '--images', 3)
    after = Evaluation.load(saved / 'report/results/after.json')
    assert after.per_class['PQ'] == [100, None, 100, 100]
    assert after.confusion['tail'] == dict(head=0, body=0, tail=4)
    text = (saved / 'report/index.html').read_text()
    assert '1.jpg: 6 pixels changed, 6 to the right class, 0 from it' in text
    assert '2.jpg:' not in text
    assert len(list((saved / 'report/images').iterdir())) == 3
    # 3 of 4 cats, and grass of 6 pixels in a segment of 12 that no other image has.
    said = capsys.readouterr().out
    assert 'PQ rose by ' in said and 'tail rose by 14.3 to 100.0 %' in said


def test_calibrations_of_things_alone_are_shown_as_such(
    saved: Path, repo: Path, monkeypatch
) -> None:
    state = {f'roi_head.calibration.{name}': torch.ones(2) for name in ('magnitude', 'margin')}
    torch.save(dict(state_dict=state), saved / 'things.pth')
    options = ['--prior', saved / 'prior.json', '--checkpoint', saved / 'things.pth']
    analyze(monkeypatch, repo, saved, *options, '--confidence-images', 0)
    assert (saved / 'report/figures/roi_head.calibration_alpha_beta.png').is_file()


# The tools

STAGE_1 = """
_base_ = 'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py'
custom_imports = dict(imports=['panoptic_data'])
things, stuff = {things}, {stuff}
attention = dict(embed_dims=16, num_heads=2)
mlp = dict(embed_dims=16, feedforward_channels=16)
model = dict(
    data_preprocessor=dict(batch_augments=None),
    backbone=dict(depth=18, base_channels=8, stem_channels=8, init_cfg=None, frozen_stages=-1),
    panoptic_head=dict(
        in_channels=[8, 16, 32, 64], feat_channels=16, out_channels=16,
        num_things_classes=4, num_stuff_classes=2, num_queries=10,
        pixel_decoder=dict(
            norm_cfg=dict(num_groups=4), positional_encoding=dict(num_feats=8),
            encoder=dict(
                num_layers=1, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=mlp))),
        positional_encoding=dict(num_feats=8),
        transformer_decoder=dict(num_layers=1, layer_cfg=dict(
            self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=mlp)),
        loss_cls=dict(class_weight=[1.0] * 6 + [0.1])),
    panoptic_fusion_head=dict(num_things_classes=4, num_stuff_classes=2),
    train_cfg=dict(num_points=64),
    test_cfg=dict(object_mask_thr=0.0, iou_thr=0.0, max_per_image=20))
load = dict(type='LoadImageFromFile')
keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
data = dict(
    type='CocoPanopticDataset', data_root='scenes/',
    metainfo=dict(classes=things + stuff, thing_classes=things, stuff_classes=stuff))
loader = dict(_delete_=True, num_workers=0, batch_size=2)
train_dataloader = dict(
    dataset=dict(
        **data, ann_file='training.json',
        data_prefix=dict(img='images/training/', seg='segments/training/'),
        pipeline=[load, dict(type='LoadSegments'), dict(type='PackDetInputs')]),
    sampler=dict(type='DefaultSampler', shuffle=True), **loader)
val_dataloader = test_dataloader = dict(
    dataset=dict(
        **data, ann_file='validation.json', test_mode=True,
        data_prefix=dict(img='images/validation/', seg='segments/validation/'),
        pipeline=[load, dict(type='Resize', scale=(96, 96)),
            dict(type='PackDetInputs', meta_keys=keys)]),
    sampler=dict(type='DefaultSampler', shuffle=False), **loader)
val_evaluator = test_evaluator = dict(
    _delete_=True, type='mmdisalign.detection.LongTailPanopticMetric',
    ann_file='scenes/validation.json', seg_prefix='scenes/segments/validation',
    class_prior='scenes/training.json')
"""


def test_a_panoptic_segmentor_is_calibrated_and_evaluated(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    things, stuff = write_panoptic(tmp_path / 'scenes', num_train=20, num_val=2)
    (tmp_path / 'panoptic_data.py').write_text(PANOPTIC)
    (tmp_path / 'stage1.py').write_text(STAGE_1.format(things=things, stuff=stuff))
    monkeypatch.syspath_prepend(str(tmp_path))  # where the config's own module is
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    save_untrained(tmp_path / 'stage1.py', tmp_path / 'stage1.pth')
    tool = [sys.executable, repo / 'tools/calibrate.py', 'stage1.py', 'stage1.pth']
    options = ['--exp-scale', 0.5, '--images-per-class', 4, '--passes', 1]
    output = run(repo, tmp_path, *tool, '--out', 'calibrated.pth', *options)
    before, after = re.search(r'cls_embed.calibration: loss ([\d.]+) to ([\d.]+)', output).groups()
    assert float(after) < float(before)
    written, counted = (
        ClassPrior.build(str(tmp_path / name))
        for name in ('calibrated_prior.json', 'scenes/training.json')
    )
    assert written.counts.tolist() == counted.counts.tolist()
    assert written.counts.all()
    test = [sys.executable, repo / 'tools/test.py', 'calibrated.py', 'calibrated.pth']
    output = run(repo, tmp_path, *test, '--out', 'after.pkl')
    assert 'coco_panoptic/PQtail' in output
    assert 'pred_panoptic_seg' in mmengine.load(tmp_path / 'after.pkl')[0]


def test_boxes_of_a_panoptic_fpn_take_the_things_of_a_prior() -> None:
    cfg = Config.fromfile(
        Path(__import__('mmdet').__file__).parent
        / '.mim/configs/panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py'
    ).model
    cfg.backbone.update(depth=18, base_channels=4, stem_channels=4, init_cfg=None)
    cfg.neck.update(in_channels=[4, 8, 16, 32])
    prior = ClassPrior(np.arange(133, 0, -1.0))
    model = MODELS.build({**cfg, 'type': 'mmdisalign.detection.CalibratedPanopticFPN',
                          'class_prior': prior})  # fmt: skip
    assert model.class_prior.counts.tolist() == prior.counts[:80].tolist()
    groups = {name: [i for i in own if i < 80] for name, own in prior.groups.items()}
    assert model.class_prior.groups == groups
    assert model.roi_head.bbox_head.loss_cls.num_classes == 80
