# The schedule that was released for ImageNet-LT; none was for Places.
_base_ = ['./resnet152_8xb32-30e_places-lt.py', '../_base_/disalign_cls.py']
model = dict(_base_.disalign.model, class_prior=_base_.class_prior, exp_scale=1.2)
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.schedule
load_from = 'work_dirs/resnet152_8xb32-30e_places-lt/epoch_30.pth'
