_base_ = ['./resnet32_1xb128-200e_cifar10-lt-if100-held-out.py', '../_base_/longtail_cls.py']
own = _base_.longtail.cdb_s
custom_hooks, train_cfg = own.custom_hooks, own.train_cfg
train_dataloader = own.train_dataloader
