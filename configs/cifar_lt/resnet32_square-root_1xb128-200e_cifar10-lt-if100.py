_base_ = ['./resnet32_1xb128-200e_cifar10-lt-if100.py', '../_base_/decoupled_cls.py']
train_dataloader = _base_.decoupled.square_root.train_dataloader
