# A cosine classifier on the features of stage 1, with plain cross-entropy; also the model of NCM.
_base_ = ['./stage1.py', '../../configs/_base_/decoupled_cls.py']
model = _base_.decoupled.cosine.model
custom_hooks = _base_.decoupled.cosine.custom_hooks
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.short_schedule
load_from = 'work_dirs/bench/cifar10_lt/stage1/epoch_20.pth'
