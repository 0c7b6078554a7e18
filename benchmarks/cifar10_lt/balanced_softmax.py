# A new classifier with Balanced Softmax.
_base_ = ['./stage1.py', '../../configs/_base_/decoupled_cls.py']
loss = dict(_base_.decoupled.balanced_softmax.loss, class_prior=_base_.class_prior)
model = dict(_base_.decoupled.balanced_softmax.model, head=dict(loss=loss))
custom_hooks = _base_.decoupled.balanced_softmax.custom_hooks
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.short_schedule
load_from = 'work_dirs/bench/cifar10_lt/stage1/epoch_20.pth'
