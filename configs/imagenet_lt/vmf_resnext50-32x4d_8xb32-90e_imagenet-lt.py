_base_ = ['./resnext50-32x4d_8xb32-90e_imagenet-lt.py', '../_base_/longtail_cls.py']
own = _base_.longtail.vmf
loss = dict(own.loss, class_prior=_base_.class_prior)
model = dict(head=dict(own.head, loss=loss))
optim_wrapper = dict(paramwise_cfg=own.paramwise_cfg)
