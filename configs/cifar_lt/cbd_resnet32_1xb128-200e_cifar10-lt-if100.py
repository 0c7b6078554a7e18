_base_ = ['./resnet32_1xb128-200e_cifar10-lt-if100.py', '../_base_/longtail_cls.py']
teacher = 'configs/cifar_lt/resnet32_cosine_1xb128-200e_cifar10-lt-if100.py'
checkpoint = 'work_dirs/resnet32_cosine_1xb128-200e_cifar10-lt-if100/epoch_200.pth'
model = dict(_base_.longtail.cbd.model, teachers=[dict(config=teacher, checkpoint=checkpoint)])
train_dataloader = _base_.longtail.cbd.train_dataloader
