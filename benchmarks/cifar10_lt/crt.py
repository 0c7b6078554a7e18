# Classifier re-training.
_base_ = ['./stage1.py', '../../configs/_base_/decoupled_cls.py']
model = _base_.decoupled.crt.model
train_dataloader = _base_.decoupled.crt.train_dataloader
custom_hooks = _base_.decoupled.crt.custom_hooks
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.short_schedule
load_from = 'work_dirs/bench/cifar10_lt/stage1/epoch_20.pth'
