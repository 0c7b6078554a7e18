_base_ = [
    './cascade-mask-rcnn_r101_fpn_sample1e-3_ms-2x_lvis-v0.5.py',
    '../_base_/disalign_lvis-v0.5.py',
]
model = _base_.disalign.model
train_cfg, optim_wrapper, param_scheduler, default_hooks, log_processor = _base_.disalign.schedule
val_evaluator = test_evaluator = _base_.disalign.evaluator
load_from = 'work_dirs/cascade-mask-rcnn_r101_fpn_sample1e-3_ms-2x_lvis-v0.5/epoch_24.pth'
