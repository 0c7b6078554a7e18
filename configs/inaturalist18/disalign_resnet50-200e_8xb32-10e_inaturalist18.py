# The schedule that was released for ImageNet-LT; none was for iNaturalist.
_base_ = ['./resnet50_8xb32-200e_inaturalist18.py', '../_base_/disalign_cls.py']
model = dict(_base_.disalign.model, class_prior=_base_.class_prior, exp_scale=1.2)
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.schedule
load_from = 'work_dirs/resnet50_8xb32-200e_inaturalist18/epoch_200.pth'
