# vanilla_seed2 of google-research/class_balanced_distillation, the second teacher.
_base_ = './cbd-teacher_resnet50_8xb32-90e_imagenet-lt.py'
randomness = dict(seed=2)
