# Stage 1 of Kang et al. (2020): 0.2 for 512 images an iteration, which is 0.1 for 8 x 32.
_base_ = [
    'mmpretrain::_base_/models/resnet50.py',
    '../_base_/imagenet_lt.py',
    'mmpretrain::_base_/schedules/imagenet_bs256.py',
    'mmpretrain::_base_/default_runtime.py',
]
optim_wrapper = dict(optimizer=dict(lr=0.1, weight_decay=5e-4))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=90, by_epoch=True)]
train_cfg = dict(max_epochs=90, val_interval=10)
default_hooks = dict(checkpoint=dict(interval=10))
