_base_ = ['./resnet32_1xb128-200e_cifar10-lt-if100.py', '../_base_/decoupled_cls.py']
sampler = dict(_base_.decoupled.progressive.train_dataloader.sampler, progressive_epochs=200)
train_dataloader = dict(sampler=sampler)
