# data_aug_seed1 of google-research/class_balanced_distillation, the third teacher: colours vary as
# SimCLR's.
_base_ = './cbd-teacher_resnet50_8xb32-90e_imagenet-lt.py'
jitter = [  # torchvision's: the hue of mmcv fails with numpy 2
    dict(type='NumpyToPIL', to_rgb=True),
    dict(type='torchvision/ColorJitter', brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2),
    dict(type='PILToNumpy', to_bgr=True),
]
colors = [
    dict(type='RandomApply', transforms=jitter, prob=0.8),
    dict(type='RandomGrayscale', prob=0.2, keep_channels=True),
]
before = _base_.train_dataloader.dataset.pipeline
train_dataloader = dict(dataset=dict(pipeline=[*before[:-1], *colors, before[-1]]))
