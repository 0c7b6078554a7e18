# Cao et al. (2019) have no ImageNet-LT: as naver-ai/cmo has it, whose 0.1 for 128 images is 0.2 for
# 8 x 32, without its CMO. No figure was found.
_base_ = ['./resnet50_8xb32-90e_imagenet-lt.py', '../_base_/longtail_cls.py']
own = _base_.longtail.ldam_drw
model = dict(head=dict(own.head, loss=dict(own.loss, class_prior=_base_.class_prior)))
custom_hooks = [dict(own.custom_hooks[0], begin=80)]
optim_wrapper = dict(optimizer=dict(lr=0.2, weight_decay=2e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.2, begin=0, end=5, by_epoch=True),
    dict(type='MultiStepLR', milestones=[60, 80], by_epoch=True),
]
train_cfg = dict(max_epochs=100)
