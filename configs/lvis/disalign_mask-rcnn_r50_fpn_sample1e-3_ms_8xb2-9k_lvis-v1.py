_base_ = [
    'mmdet::lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1.py',
    '../_base_/disalign_lvis-v1.py',
]
model = _base_.disalign.model
train_cfg, optim_wrapper, param_scheduler, default_hooks, log_processor = _base_.disalign.schedule
val_evaluator = test_evaluator = _base_.disalign.evaluator
load_from = (
    'https://download.openmmlab.com/mmdetection/v2.0/lvis/mask_rcnn_r50_fpn_sample1e-3_mstrain_1x_lvis_v1/'
    'mask_rcnn_r50_fpn_sample1e-3_mstrain_1x_lvis_v1-aa78ac3d.pth'
)
