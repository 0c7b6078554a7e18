_base_ = ['./resnext50-32x4d_8xb32-90e_imagenet-lt.py', '../_base_/longtail_cls.py']
own = _base_.longtail.cdb_w
loss = dict(own.loss, class_prior=_base_.class_prior, tau=1.0)
model = dict(head=dict(own.head, loss=loss))
custom_hooks, train_cfg = own.custom_hooks, own.train_cfg
