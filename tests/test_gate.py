"""Where σ(x) closes: how it is counted, and what the plug-ins know of it."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import pytest
import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.structures import DetDataSample
from mmengine.structures import PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample
from PIL import Image
from torch import Tensor, nn

from mmdisalign.analysis import Gate, Picture
from mmdisalign.analysis.drawing import STRIP, draw_marks, draw_sigma
from mmdisalign.analysis.gate import EDGES, LEVELS, NUM_BINS, bins_of, edge_of
from mmdisalign.calibration import AdaptiveCalibration
from mmdisalign.classification.gate import GateViewer as ImageViewer
from mmdisalign.detection.gate import GateViewer as ProposalViewer
from mmdisalign.onepass import confidence
from mmdisalign.onepass.confidence import GateObserver, Seen, Viewer
from mmdisalign.segmentation.gate import GateViewer as PixelViewer

# The scale


@pytest.mark.parametrize('level', [*LEVELS, 0.1])
def test_a_level_is_an_edge_that_is_not_below_itself(level: float) -> None:
    assert EDGES[edge_of(level)] == pytest.approx(level, abs=1e-12)
    below, at = bins_of(torch.tensor([np.nextafter(np.float32(level), np.float32(0)), level]))
    assert (int(below), int(at)) == (edge_of(level) - 1, edge_of(level))


def test_both_ends_have_room_and_nothing_is_beyond_them() -> None:
    assert EDGES[0] < 2e-5 and EDGES[-1] > 1 - 2e-5
    assert bins_of(torch.tensor([0.0, 1e-9, 1.0])).tolist() == [0, 0, NUM_BINS - 1]
    # From 0.99 to 0.999 are as many bins as from 0.01 to 0.001.
    assert edge_of(0.999) - edge_of(0.99) == edge_of(0.01) - edge_of(0.001) > 10


def gate_of(sigmas: list[list[float]], right: Optional[list[list[float]]] = None) -> Gate:
    def counts(rows: list[list[float]]) -> np.ndarray:
        return np.array(
            [np.bincount(bins_of(torch.tensor(own)), minlength=NUM_BINS) for own in rows]
        )

    zeros = np.zeros(len(sigmas), int)
    known = (counts(right), zeros, zeros) if right is not None else ()
    return Gate('images', 1, counts(sigmas), zeros, *known)


def test_shares_and_accuracies_are_those_of_the_values() -> None:
    gate = gate_of([[0.2, 0.6, 0.95, 0.95], [0.99]], [[0.2, 0.95], []])
    assert gate.below(0.5).tolist() == [0.25, 0] and gate.below(0.9).tolist() == [0.5, 0]
    below, above = gate.accuracy(0.9)
    assert below[0] == 0.5 and np.isnan(below[1])
    assert above.tolist() == [0.5, 0]
    assert gate.all.totals.tolist() == [5] and gate.all.below(0.5).tolist() == [0.2]


def test_quantiles_are_near_those_of_the_values() -> None:
    rng = np.random.default_rng(0)
    values = 1 / (1 + np.exp(-rng.normal(3, 2, 20_000)))
    gate = gate_of([values.tolist()])
    for share in (0.001, 0.01, 0.1, 0.5):
        exact, own = np.quantile(values, share), gate.quantile(share)[0]
        assert np.log(own / (1 - own)) == pytest.approx(np.log(exact / (1 - exact)), abs=0.1)


def test_a_quantile_of_a_few_is_in_their_bins() -> None:
    lowest, highest = (gate_of([[0.2, 0.95]]).quantile(share)[0] for share in (0.1, 0.9))
    assert lowest == pytest.approx(0.2, abs=0.03) and highest == pytest.approx(0.95, abs=0.01)


def test_where_it_closes_is_first_and_what_was_not_seen_last() -> None:
    gate = gate_of([[], [0.99], [0.95], [0.8, 0.99], [0.4, 0.99, 0.99, 0.99]])
    assert gate.order == [4, 3, 2, 1, 0]
    assert np.isnan(gate.below(0.5)[0]) and np.isnan(gate.quantile(0.1)[0])


def test_a_group_may_have_classes_that_are_not_scored() -> None:
    assert gate_of([[0.9], [0.5]]).of([1, 7]).totals.tolist() == [1]  # things come before stuff


# Counting


class Knows(Viewer):
    """A viewer that was told the labels, and keeps which pass it was."""

    unit = 'images'

    def __init__(self, labels: Optional[list] = None) -> None:
        super().__init__(nn.Identity(), None)
        self.told, self.passes = labels, 0

    def labels(self, classes: Tensor) -> Optional[Tensor]:
        return None if self.told is None else torch.tensor(self.told).view_as(classes)

    def keep(self, seen: Seen) -> Any:
        self.passes += 1
        return self.passes

    def picture(self, kept: Any, note: str) -> Picture:
        return Picture(f'{kept}: {note}', [])


def observer(viewer: Viewer, **options: Any) -> GateObserver:
    """Of three classes; the last gains 2 where the gate is open."""
    calibration = AdaptiveCalibration(3, 4)
    with torch.no_grad():
        calibration.margin[2] = 2.0
    return GateObserver({'head': calibration}, viewer, **options)


# Class 0 scores highest, and with σ = 1 class 2 does; with 0.2, it stays 0.
SCORES = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [1.0, 0, 0], [3.0, 0, 0], [0, 1.0, 0]])
SIGMA = torch.tensor([0.2, 0.2, 0.9, 0.2, 0.95])[:, None]


def test_without_labels_a_row_is_of_the_class_that_scores_highest() -> None:
    own = observer(Knows())
    own.see('head', SCORES, SIGMA)
    gate = own.of('head')
    assert gate.totals.tolist() == [4, 1, 0]
    assert gate.below(0.5).tolist()[:2] == [0.75, 0]
    assert gate.changed.tolist() == [2, 0, 0]
    assert gate.right is None and gate.saved is None and gate.lost is None
    assert own.of('never ran') is None


def test_with_labels_a_row_is_of_its_own_and_the_gate_saves_or_loses() -> None:
    own = observer(Knows([0, 2, 2, 0, 255]))
    own.see('head', SCORES, SIGMA)
    gate = own.of('head')
    assert gate.totals.tolist() == [2, 0, 2]  # 255 is none
    assert gate.saved.tolist() == [1, 0, 0] and gate.lost.tolist() == [0, 0, 1]
    assert gate.changed.tolist() == [1, 0, 1]
    assert gate.right.sum(1).tolist() == [2, 0, 0]


def test_maps_and_anchors_are_as_rows_and_tiles_change_nothing(monkeypatch) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, sigma = (torch.rand(2, size, 5, 7, generator=generator) for size in (3, 1))
    maps, rows = observer(Knows()), observer(Knows())
    rows.see('head', logits.movedim(1, -1).flatten(0, -2), sigma.flatten()[:, None])
    monkeypatch.setattr(confidence, 'TILE', 3 * 2 * 4)
    maps.see('head', logits, sigma)
    for name in ('counts', 'changed'):
        assert np.array_equal(*(getattr(own.of('head'), name) for own in (maps, rows)))
    assert maps.of('head').changed.sum() > 0


def test_what_is_closed_most_is_shown_and_no_more_is_kept() -> None:
    own = observer(Knows(), most=2)
    for sigma in (0.95, 0.8, 0.3, 0.7, 0.2):
        own.see('head', SCORES[:2], torch.tensor([[sigma], [0.99]]))
    assert len(own._closed['head']) == 2
    titles = [picture.title for picture in own.pictures('head')]
    assert titles == [
        '4: 50.0 % of 2 images below 0.5, 50.0 % below 0.9',
        '2: 50.0 % of 2 images below 0.5, 50.0 % below 0.9',
    ]


def test_of_a_gate_that_is_open_no_image_is_shown() -> None:
    own = observer(Knows())
    own.see('head', SCORES, torch.full((5, 1), 0.95))
    assert own.pictures('head') == [] and own.pictures('never ran') == []


# What the plug-ins know


class Model(nn.Module):
    def __init__(self, mode: str = 'whole') -> None:
        super().__init__()
        self.test_cfg = dict(mode=mode)
        self.extractor = SingleRoIExtractor(dict(type='RoIAlign', output_size=1), 1, [1])


class Data:
    metainfo = dict(classes=('road', 'car', 'sign'))

    def __init__(self, **info: Any) -> None:
        self.info = info

    def get_data_info(self, index: int) -> dict:
        return self.info


def seg_batch(labels: Tensor, padded: tuple[int, int]) -> dict:
    sample = SegDataSample(metainfo=dict(img_shape=tuple(labels.shape)))
    sample.gt_sem_seg = PixelData(data=labels[None])
    return dict(inputs=torch.zeros(1, 3, *padded), data_samples=[sample])


def test_a_position_has_the_class_of_the_pixel_at_its_centre_and_padding_none() -> None:
    labels = torch.zeros(8, 12, dtype=torch.uint8)
    labels[:, 4:8], labels[4:] = 1, 2
    viewer = PixelViewer(Model(), Data())
    viewer.begin(0, seg_batch(labels, (8, 16)))
    found = viewer.labels(torch.zeros(1, 2, 4, dtype=torch.long))
    assert found.tolist() == [[[0, 1, 0, 255], [2, 2, 2, 255]]]


def test_windows_points_and_images_without_labels_have_no_known_class() -> None:
    batch = seg_batch(torch.zeros(8, 8, dtype=torch.uint8), (8, 8))
    windows, points = PixelViewer(Model('slide'), Data()), PixelViewer(Model(), Data())
    for viewer, shape in ((windows, (1, 2, 2)), (points, (1, 9)), (points, (9,))):
        viewer.begin(0, batch)
        classes = torch.zeros(shape, dtype=torch.long)
        assert viewer.labels(classes) is None
        assert viewer.keep(Seen(classes.float(), classes, classes, classes, None)) is None
    del batch['data_samples'][0].gt_sem_seg
    points.begin(0, batch)
    assert points.labels(torch.zeros(1, 2, 2, dtype=torch.long)) is None


def test_the_image_stands_beside_its_gate(tmp_path) -> None:
    Image.new('RGB', (12, 8), (200, 0, 0)).save(tmp_path / 'street.png')
    viewer = PixelViewer(Model(), Data(img_path=str(tmp_path / 'street.png')))
    viewer.begin(0, seg_batch(torch.zeros(8, 12, dtype=torch.uint8), (8, 16)))
    classes = torch.zeros(1, 2, 4, dtype=torch.long)
    sigma = torch.full((1, 2, 4), 0.99)
    sigma[0, 0, 0] = 0.1
    opened = classes.clone()
    opened[0, 1, 1] = 1
    kept = viewer.keep(Seen(sigma, classes, classes, opened, viewer.labels(classes)))
    picture = viewer.picture(kept, 'half closed')
    assert picture.title == 'street.png: half closed'
    (_, image), (_, drawn), (caption, effect) = picture.panels
    assert image.shape == effect.shape == (8, 12, 3) and drawn.shape == (8 + STRIP, 12, 3)
    assert drawn[1, 1].sum() < drawn[1, 6].sum()  # padding is not drawn, the dark is a third wide
    assert caption.startswith('another class if σ = 1: blue where that would be wrong')
    assert effect[6, 6, 2] > effect[6, 6, 0] and len(set(effect[1, 1].tolist())) == 1


@pytest.mark.parametrize(
    ('labels', 'predicted', 'expected'), [([2], 1, 2), ([0, 1], 1, 1), ([0, 2], 1, 0)]
)
def test_an_image_has_its_label_or_that_of_several_that_was_predicted(
    labels: list, predicted: int, expected: int
) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    viewer = ImageViewer(nn.Identity(), Data(img=image, gt_label=labels))
    sample = DataSample().set_gt_label(torch.tensor(labels))
    viewer.begin(3, dict(data_samples=[sample]))
    classes = torch.tensor([predicted])
    assert viewer.labels(classes).tolist() == [expected]
    kept = viewer.keep(Seen(torch.tensor([0.3]), classes, classes, classes, None))
    picture = viewer.picture(kept, 'σ 0.3')
    assert picture.title == 'image 3: σ 0.3'
    names = ', '.join(Data.metainfo['classes'][own] for own in labels)
    assert picture.panels[0][0] == f'{names}; for stage 1, car'


def test_an_image_without_a_label_has_none() -> None:
    viewer = ImageViewer(nn.Identity(), Data())
    viewer.begin(0, dict(data_samples=[DataSample()]))
    assert viewer.labels(torch.tensor([1])) is None


def test_a_proposal_has_the_class_of_the_object_it_is_on(tmp_path) -> None:
    Image.new('RGB', (60, 40)).save(tmp_path / 'street.png')
    objects = [
        dict(bbox=[0, 0, 10, 10], bbox_label=1, ignore_flag=0),
        dict(bbox=[30, 20, 50, 40], bbox_label=2, ignore_flag=0),
        dict(bbox=[20, 0, 30, 10], bbox_label=0, ignore_flag=1),  # a crowd
    ]
    model = Model()
    viewer = ProposalViewer(model, Data(img_path=str(tmp_path / 'street.png'), instances=objects))
    sample = DetDataSample(metainfo=dict(scale_factor=(2.0, 2.0)))
    viewer.begin(0, dict(inputs=torch.zeros(1, 3, 80, 120), data_samples=[sample]))
    classes = torch.tensor([0, 1, 1, 0])
    assert viewer.labels(classes) is None  # no proposals were scored yet
    rois = [[0, 0, 0, 20, 18], [0, 60, 40, 100, 80], [0, 40, 40, 60, 60], [0, 40, 0, 60, 20]]
    model.extractor((torch.zeros(1, 1, 80, 120),), torch.tensor(rois).float())
    assert viewer.labels(classes).tolist() == [1, 2, -1, -1]
    assert viewer.labels(classes[:3]) is None  # not those
    sigma = torch.tensor([0.4, 0.95, 0.1, 0.1])
    kept = viewer.keep(Seen(sigma, classes, classes, classes, viewer.labels(classes)))
    _, boxes, drawn, low = kept
    assert boxes.tolist() == [[0, 0, 10, 9]] and drawn.tolist() == [0]
    assert low.tolist() == pytest.approx([0.4])
    picture = viewer.picture(kept, 'closed')
    assert [panel.shape for _, panel in picture.panels] == [(40, 60, 3)] * 2


def test_of_anchors_no_class_is_known() -> None:
    viewer = ProposalViewer(nn.Identity(), Data(instances=[]))
    sample = DetDataSample(metainfo=dict(scale_factor=(1.0, 1.0)))
    viewer.begin(0, dict(inputs=torch.zeros(1, 3, 8, 8), data_samples=[sample]))
    classes = torch.zeros(1, 9, 2, 2, dtype=torch.long)
    assert viewer.labels(classes) is None
    assert viewer.keep(Seen(classes.float(), classes, classes, classes, None)) is None


# Drawing


def test_a_map_is_darker_where_the_gate_closes_whatever_is_beyond_the_key() -> None:
    drawn = draw_sigma(np.array([[0.001, 0.1, 0.5, 0.9, 0.99, 0.9999]]), (1, 6))[0]
    brightness = drawn.astype(int).sum(1)
    assert brightness[0] == brightness[1] < brightness[2] < brightness[3] < brightness[4]
    assert brightness[4] == brightness[5]


def test_large_images_are_drawn_as_large_as_the_page_shows_them() -> None:
    image = np.zeros((1000, 2000, 3), np.uint8)
    assert draw_sigma(np.ones((5, 10)), image.shape[:2]).shape == (360 + STRIP, 720, 3)
    assert draw_marks(image, [np.ones((5, 10), bool)]).shape == (360, 720, 3)
