# README and config of hyperconnect/LADE, which has α 0.05 (a weight) and λ 0.5. Published: 53.0
# (wizwand.com's page of the paper).
_base_ = ['./resnext50-32x4d_8xb32-90e_imagenet-lt.py', '../_base_/longtail_cls.py']
own = _base_.longtail.lade
loss = dict(own.loss, class_prior=_base_.class_prior, lambda_=0.5, regularizer_weight=0.05)
model = dict(head=dict(own.head, loss=loss))
optim_wrapper = dict(optimizer=dict(lr=0.05))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=180, by_epoch=True)]
train_cfg = dict(max_epochs=180)
