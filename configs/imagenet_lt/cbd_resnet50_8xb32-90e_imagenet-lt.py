_base_ = ['./resnet50_8xb32-90e_imagenet-lt.py', '../_base_/longtail_cls.py']
# One teacher; with four, the student has a neck of as many features, see the docs.
teacher = 'configs/imagenet_lt/resnet50_cosine_8xb32-90e_imagenet-lt.py'
checkpoint = 'work_dirs/resnet50_cosine_8xb32-90e_imagenet-lt/epoch_90.pth'
model = dict(_base_.longtail.cbd.model, teachers=[dict(config=teacher, checkpoint=checkpoint)])
train_dataloader = _base_.longtail.cbd.train_dataloader
