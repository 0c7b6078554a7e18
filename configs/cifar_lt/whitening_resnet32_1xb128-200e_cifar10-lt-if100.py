_base_ = ['./resnet32_1xb128-200e_cifar10-lt-if100.py', '../_base_/longtail_cls.py']
model = dict(head=_base_.longtail.whitening.head)
