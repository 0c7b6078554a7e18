_base_ = ['./resnet32_1xb128-200e_cifar10-lt-if100.py', '../_base_/decoupled_cls.py']
model = dict(
    _base_.decoupled.meta_sampler.model,
    head=dict(loss=dict(_base_.decoupled.meta_sampler.loss, class_prior=_base_.class_prior)),
)
train_dataloader = _base_.decoupled.meta_sampler.train_dataloader
custom_hooks = _base_.decoupled.meta_sampler.custom_hooks
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.short_schedule
load_from = 'work_dirs/resnet32_1xb128-200e_cifar10-lt-if100/epoch_200.pth'
