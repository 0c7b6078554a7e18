# Settings of BoLiu-SVCL/Breadcrumbs (0.2 for 512 images), whose README names no figure.
_base_ = ['./resnet50_8xb32-90e_imagenet-lt.py', '../_base_/longtail_cls.py']
own = _base_.longtail.breadcrumb
network = dict(_delete_=True, type='mmdisalign.classification.ResNet10')
model = dict(backbone=network, head=dict(own.head, in_channels=512))
custom_hooks = own.custom_hooks
param_scheduler = [dict(type='CosineAnnealingLR', T_max=200, by_epoch=True)]
train_cfg = dict(max_epochs=200)
