_base_ = './mask-rcnn_r50_fpn_random_ms-1x_lvis-v1.py'
warmup, steps = _base_.param_scheduler
param_scheduler = [warmup, dict(steps, end=24, milestones=[16, 22])]
train_cfg = dict(max_epochs=24)
