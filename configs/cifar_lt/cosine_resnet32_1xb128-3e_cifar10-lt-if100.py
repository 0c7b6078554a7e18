# A cosine classifier on the features of stage 1; disalign_cosine_... calibrates it.
_base_ = ['./resnet32_1xb128-200e_cifar10-lt-if100.py', '../_base_/decoupled_cls.py']
model = _base_.decoupled.cosine.model
custom_hooks = _base_.decoupled.cosine.custom_hooks
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.short_schedule
load_from = 'work_dirs/resnet32_1xb128-200e_cifar10-lt-if100/epoch_200.pth'
