_base_ = ['./resnet32_1xb128-200e_cifar10-lt-if100.py', '../_base_/longtail_cls.py']
own = _base_.longtail.class_balanced
model = dict(head=dict(own.head, loss=dict(own.loss, class_prior=_base_.class_prior)))
