# data_aug_seed2 of google-research/class_balanced_distillation, the fourth teacher.
_base_ = './cbd-teacher_resnet50_jitter_8xb32-90e_imagenet-lt.py'
randomness = dict(seed=2)
