_base_ = ['./resnet32_1xb128-200e_cifar10-lt-if100.py', '../_base_/longtail_cls.py']
own = _base_.longtail.breadcrumb
model = dict(head=own.head)
custom_hooks = own.custom_hooks
