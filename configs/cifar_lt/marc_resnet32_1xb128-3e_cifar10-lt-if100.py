_base_ = [
    './resnet32_1xb128-200e_cifar10-lt-if100.py',
    '../_base_/disalign_cls.py',
    '../_base_/longtail_cls.py',
]
model = dict(_base_.longtail.marc.model, class_prior=_base_.class_prior)
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.short_schedule
load_from = 'work_dirs/resnet32_1xb128-200e_cifar10-lt-if100/epoch_200.pth'
