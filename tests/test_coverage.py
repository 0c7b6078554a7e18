"""Stock configs of each family by the lines of the docs, as benchmarks/coverage.py takes them all.

An examination raises unless stage 2 builds over the stock config, takes the state of its stage 1,
predicts bit for bit what that predicts while it is untouched, trains the calibration and nothing
else, and predicts otherwise afterwards.
"""

from __future__ import annotations

import pytest

LIGHT = {
    'RoIs': 'faster_rcnn/faster-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco.py',
    'anchors': 'retinanet/retinanet_r18_fpn_1x_coco.py',
    'points': 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'levels': 'yolox/yolox_nano_8xb8-300e_coco.py',
    'boxes and classes in one layer': 'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py',
    'a loss of its own': 'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py',
    'heat maps': 'centernet/centernet-update_r18_fpn_8xb8-amp-lsj-200e_coco.py',
    'queries': 'detr/detr_r18_8xb2-500e_coco.py',
    'dynamic heads': 'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py',
    'masks by position': 'rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py',
}
REFUSED = {
    'tridentnet/tridentnet_r50-caffe_1x_coco.py': 'its branches train together',
    'free_anchor/freeanchor_r50_fpn_1x_coco.py': 'a bag of anchors an object',
    'ddq/ddq-detr-4scale_r50_8xb2-12e_coco.py': 'chosen by other classifiers',
    'mask2former_vis/mask2former_r50_8xb2-8e_youtubevis2019.py': 'tracks in videos',
}


@pytest.mark.parametrize('family', LIGHT)
def test_the_lines_of_the_docs_calibrate_a_stock_detector(examine, family: str) -> None:
    examine(LIGHT[family]).lines()


@pytest.mark.parametrize('family', ['RoIs', 'levels'])
def test_one_pass_calibrates_a_stock_detector(examine, family: str) -> None:
    examine(LIGHT[family]).one_pass()


@pytest.mark.parametrize('name', REFUSED)
def test_what_cannot_be_calibrated_is_refused_in_a_sentence(examine, name: str) -> None:
    examination = examine(name)
    for route in (examination.lines, examination.one_pass):
        with pytest.raises(TypeError, match=f'cannot be calibrated: .*{REFUSED[name]}'):
            route()
