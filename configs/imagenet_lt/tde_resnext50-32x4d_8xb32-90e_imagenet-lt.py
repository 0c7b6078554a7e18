_base_ = ['./resnext50-32x4d_8xb32-90e_imagenet-lt.py', '../_base_/longtail_cls.py']
model = dict(head=_base_.longtail.tde.head)  # alpha 3, as released
