# Stage I of MCG-NJU/SSD-LT, as released. Published for the student of stage III.
_base_ = ['./resnext50-32x4d_8xb32-135e_imagenet-lt.py', '../_base_/longtail_cls.py']
own = _base_.longtail.ssd_features
model = own.model
load, crop, flip, colours, pack = _base_.train_pipeline
stronger = [  # torchvision's: the hue of mmcv fails with numpy 2
    dict(type='NumpyToPIL', to_rgb=True),
    dict(type='torchvision/ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
    dict(type='PILToNumpy', to_bgr=True),
]
other = [
    dict(crop, crop_ratio_range=(0.2, 1.0)),
    dict(type='RandomApply', transforms=stronger, prob=0.8),
    dict(type='RandomGrayscale', prob=0.2, keep_channels=True),
    dict(type='GaussianBlur', magnitude_range=(0.1, 2.0), magnitude_std='inf', prob=0.5),
    flip,
]
views = dict(type='MultiView', num_views=[1, 1], transforms=[[crop, flip, colours], other])
train_dataloader = dict(dataset=dict(pipeline=[load, views, pack]))
