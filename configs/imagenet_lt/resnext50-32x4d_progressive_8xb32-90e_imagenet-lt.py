_base_ = ['./resnext50-32x4d_8xb32-90e_imagenet-lt.py', '../_base_/decoupled_cls.py']
train_dataloader = _base_.decoupled.progressive.train_dataloader
