# MARC.yaml of microsoft/robustlearn, but there batch normalisation trains on, and the decay pulls ω
# to 0, not to 1. No figure was found.
_base_ = [
    './resnext50-32x4d_8xb32-90e_imagenet-lt.py',
    '../_base_/disalign_cls.py',
    '../_base_/longtail_cls.py',
]
model = dict(_base_.longtail.marc.model, class_prior=_base_.class_prior)
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.schedule
optim_wrapper.optimizer.update(lr=0.05)
load_from = 'work_dirs/resnext50-32x4d_8xb32-90e_imagenet-lt/epoch_90.pth'
