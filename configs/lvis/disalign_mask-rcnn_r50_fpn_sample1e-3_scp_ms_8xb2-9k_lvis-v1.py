_base_ = ['./mask-rcnn_r50_fpn_sample1e-3_scp_ms-1x_lvis-v1.py', '../_base_/disalign_lvis-v1.py']
model = _base_.disalign.model
train_cfg, optim_wrapper, param_scheduler, default_hooks, log_processor = _base_.disalign.schedule
val_evaluator = test_evaluator = _base_.disalign.evaluator
load_from = 'work_dirs/mask-rcnn_r50_fpn_sample1e-3_scp_ms-1x_lvis-v1/epoch_12.pth'
