# vanilla_seed1 of google-research/class_balanced_distillation (0.05 for 128 images), which halves
# its decay of 5e-4 and does not normalise images. Published for the student.
_base_ = ['./resnet50_8xb32-90e_imagenet-lt.py', '../_base_/longtail_cls.py']
load, crop, flip, pack = [_base_.train_pipeline[i] for i in (0, 1, 2, -1)]
pipeline = [load, dict(crop, crop_ratio_range=(0.05, 1.0)), flip, pack]
model = dict(head=_base_.longtail.cbd.model.head)
train_dataloader = dict(dataset=dict(pipeline=pipeline))
optim_wrapper = dict(optimizer=dict(weight_decay=2.5e-4))
randomness = dict(seed=1)
