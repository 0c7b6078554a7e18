# stage_two_cbd of google-research/class_balanced_distillation, with one teacher. No figure was
# found.
_base_ = './cbd-teacher_resnet50_8xb32-90e_imagenet-lt.py'
teacher = 'configs/imagenet_lt/cbd-teacher_resnet50_8xb32-90e_imagenet-lt.py'
checkpoint = 'work_dirs/cbd-teacher_resnet50_8xb32-90e_imagenet-lt/epoch_90.pth'
model = dict(_base_.longtail.cbd.model, teachers=[dict(config=teacher, checkpoint=checkpoint)])
train_dataloader = _base_.longtail.cbd.train_dataloader
