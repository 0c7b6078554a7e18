# LIFT of a ViT of ImageNet-21k, as in shijxcs/LIFT (configs/model/in21k_vit_b16.yaml), but LoRA in
# place of AdaptFormer, and one crop. `pretrained` is yours: a checkpoint of mmpretrain's ViT.
_base_ = [
    'mmpretrain::_base_/models/vit-base-p16.py',
    '../_base_/imagenet_lt.py',
    'mmpretrain::_base_/schedules/imagenet_bs256.py',
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/longtail_cls.py',
]
pretrained = 'vit-base-p16_in21k.pth'
own, vit = _base_.longtail.lift, _base_.model.backbone
weights = dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.')
backbone = dict(own.backbone, _delete_=True, module=dict(vit, drop_rate=0.0, init_cfg=weights))
loss = dict(own.loss, class_prior=_base_.class_prior)
model = dict(backbone=backbone, head=dict(own.head, num_classes=1000, in_channels=768, loss=loss))
custom_hooks = own.custom_hooks
data_preprocessor = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5])
train_pipeline = [*_base_.train_pipeline[:-2], _base_.train_pipeline[-1]]  # without ColorJitter
train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(type='AmpOptimWrapper', optimizer=dict(lr=0.01, weight_decay=5e-4))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=10, by_epoch=True)]
train_cfg = dict(max_epochs=10, val_interval=1)
auto_scale_lr = dict(base_batch_size=128)
