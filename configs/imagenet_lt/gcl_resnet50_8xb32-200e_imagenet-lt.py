# 200 epochs (Keke921/GCLLoss, issue 2); the loss and the steps are of its CIFAR script, rate, decay
# and mixup of that of Places-LT, none published for ImageNet-LT. Published: 52.9 (README).
_base_ = ['./resnet50_8xb32-90e_imagenet-lt.py', '../_base_/longtail_cls.py']
own = _base_.longtail.gcl
model = dict(
    head=dict(own.head, loss=dict(own.loss, class_prior=_base_.class_prior)),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.2)]),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.2, begin=0, end=5, by_epoch=True),
    dict(type='MultiStepLR', milestones=[160, 180], by_epoch=True),
]
train_cfg = dict(max_epochs=200)
