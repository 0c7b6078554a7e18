# DisAlign.
_base_ = ['./stage1.py', '../../configs/_base_/decoupled_cls.py']
model = dict(_base_.disalign.model, class_prior=_base_.class_prior)
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.short_schedule
load_from = 'work_dirs/bench/cifar10_lt/stage1/epoch_20.pth'
