_base_ = ['./resnet32_1xb128-200e_cifar10-lt-if100-held-out.py', '../_base_/longtail_cls.py']
own = _base_.longtail.vmf
model = dict(head=dict(own.head, loss=dict(own.loss, class_prior=_base_.class_prior)))
optim_wrapper = dict(paramwise_cfg=own.paramwise_cfg)
