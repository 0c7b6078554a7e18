_base_ = ['./resnet32_1xb128-200e_cifar10-lt-if100.py', '../_base_/decoupled_cls.py']
model = _base_.decoupled.crt.model
train_dataloader = _base_.decoupled.crt.train_dataloader
custom_hooks = _base_.decoupled.crt.custom_hooks
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.short_schedule
load_from = 'work_dirs/resnet32_1xb128-200e_cifar10-lt-if100/epoch_200.pth'
