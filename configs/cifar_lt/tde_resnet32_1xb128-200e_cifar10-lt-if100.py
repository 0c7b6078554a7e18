_base_ = ['./resnet32_1xb128-200e_cifar10-lt-if100-held-out.py', '../_base_/longtail_cls.py']
model = dict(head=dict(_base_.longtail.tde.head, alpha=1.0))
