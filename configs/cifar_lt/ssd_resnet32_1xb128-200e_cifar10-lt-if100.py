_base_ = ['./resnet32_1xb128-200e_cifar10-lt-if100.py', '../_base_/longtail_cls.py']
teacher = 'configs/cifar_lt/ssd-lws_resnet32_1xb128-3e_cifar10-lt-if100.py'
checkpoint = 'work_dirs/ssd-lws_resnet32_1xb128-3e_cifar10-lt-if100/epoch_3.pth'
model = dict(_base_.longtail.ssd.model, teachers=[dict(config=teacher, checkpoint=checkpoint)])
