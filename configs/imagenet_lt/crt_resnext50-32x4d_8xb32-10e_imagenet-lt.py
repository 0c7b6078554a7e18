_base_ = ['./resnext50-32x4d_8xb32-90e_imagenet-lt.py', '../_base_/decoupled_cls.py']
model = _base_.decoupled.crt.model
train_dataloader = _base_.decoupled.crt.train_dataloader
custom_hooks = _base_.decoupled.crt.custom_hooks
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.schedule
load_from = 'work_dirs/resnext50-32x4d_8xb32-90e_imagenet-lt/epoch_90.pth'
