_base_ = ['./resnet50_8xb32-90e_imagenet-lt.py', '../_base_/disalign_cls.py']
model = dict(_base_.disalign.model, class_prior=_base_.class_prior, exp_scale=1.2)
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.schedule
load_from = 'work_dirs/resnet50_8xb32-90e_imagenet-lt/epoch_90.pth'
