# Stage II of MCG-NJU/SSD-LT (0.2 for 512 images): the teacher. There, its batch normalisation
# trains on. Published for the student.
_base_ = ['./resnext50-32x4d_8xb32-135e_imagenet-lt.py', '../_base_/decoupled_cls.py']
model = _base_.decoupled.lws.model
train_dataloader = _base_.decoupled.lws.train_dataloader
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.schedule
train_cfg.update(max_epochs=5, val_interval=5)
param_scheduler[0].update(T_max=5)
default_hooks.checkpoint.update(interval=5)
load_from = 'work_dirs/ssd-features_resnext50-32x4d_8xb32-135e_imagenet-lt/epoch_135.pth'
