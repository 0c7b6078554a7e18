# Stage 1 of hitachi-rd-cv/Difficulty_Net (0.05 for 128 images) without its RandAugment and Balanced
# Softmax. Published: 54.0 without RandAugment (Papers with Code); there is a stage 2.
_base_ = ['./resnet50_8xb32-90e_imagenet-lt.py', '../_base_/longtail_cls.py']
own = _base_.longtail.difficulty_net
model = dict(head=dict(own.head, loss=dict(own.loss, class_prior=_base_.class_prior)))
net = dict(hidden=1024, bias=True, lr=1e-3, meta_batch_size=100)
custom_hooks = [dict(own.custom_hooks[0], **net)]
optim_wrapper = dict(optimizer=dict(nesterov=True))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=180, by_epoch=True)]
train_cfg = dict(own.train_cfg, max_epochs=180)
