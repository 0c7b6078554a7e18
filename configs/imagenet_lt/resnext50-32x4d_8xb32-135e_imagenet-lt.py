# The schedule of MCG-NJU/SSD-LT: its stage I, ssd-features_..., without what that adds.
_base_ = './resnext50-32x4d_8xb32-90e_imagenet-lt.py'
param_scheduler = [dict(type='CosineAnnealingLR', T_max=135, by_epoch=True)]
train_cfg = dict(max_epochs=135)
default_hooks = dict(checkpoint=dict(interval=15))
