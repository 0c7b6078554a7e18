# Stage 1 by fine-tuning what was trained on ImageNet, with the learning rates of Liu et al. (2019),
# 0.1 for the classifier and 0.001 for the backbone, a tenth every 10 epochs; 256 images an
# iteration are Kang et al.'s (2020). Liu et al. have a layer of 512 channels before the classifier,
# which is left out.
_base_ = [
    'mmpretrain::_base_/models/resnet152.py',
    '../_base_/places_lt.py',
    'mmpretrain::_base_/schedules/imagenet_bs256.py',
    'mmpretrain::_base_/default_runtime.py',
]
checkpoint = (
    'https://download.openmmlab.com/mmclassification/v0/resnet/'
    'resnet152_8xb32_in1k_20210901-4d7582fa.pth'
)
model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone')),
    head=dict(num_classes=365),
)
optim_wrapper = dict(
    optimizer=dict(weight_decay=5e-4),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.01))),
)
param_scheduler = [dict(type='MultiStepLR', milestones=[10, 20], gamma=0.1, by_epoch=True)]
train_cfg = dict(max_epochs=30, val_interval=10)
default_hooks = dict(checkpoint=dict(interval=10))
