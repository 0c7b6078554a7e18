# Stage III of MCG-NJU/SSD-LT. Published: 55.4 (README).
_base_ = ['./resnext50-32x4d_8xb32-135e_imagenet-lt.py', '../_base_/longtail_cls.py']
teacher = 'configs/imagenet_lt/ssd-lws_resnext50-32x4d_8xb32-5e_imagenet-lt.py'
checkpoint = 'work_dirs/ssd-lws_resnext50-32x4d_8xb32-5e_imagenet-lt/epoch_5.pth'
model = dict(_base_.longtail.ssd.model, teachers=[dict(config=teacher, checkpoint=checkpoint)])
