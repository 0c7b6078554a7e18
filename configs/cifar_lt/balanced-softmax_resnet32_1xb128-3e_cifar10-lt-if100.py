_base_ = ['./resnet32_1xb128-200e_cifar10-lt-if100.py', '../_base_/decoupled_cls.py']
model = dict(
    _base_.decoupled.balanced_softmax.model,
    head=dict(loss=dict(_base_.decoupled.balanced_softmax.loss, class_prior=_base_.class_prior)),
)
custom_hooks = _base_.decoupled.balanced_softmax.custom_hooks
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.short_schedule
load_from = 'work_dirs/resnet32_1xb128-200e_cifar10-lt-if100/epoch_200.pth'
