# SSD's stage I; stage II is ssd-lws_..., and III ssd_...
_base_ = ['./resnet32_1xb128-200e_cifar10-lt-if100.py', '../_base_/longtail_cls.py']
own = _base_.longtail.ssd_features
sizes = dict(in_channels=64, hid_channels=64, out_channels=128)
model = dict(own.model, projector=dict(own.model.projector, **sizes), queue_len=12288)
crop, flip, pack = _base_.train_pipeline
jitter = [  # torchvision's: the hue of mmcv fails with numpy 2
    dict(type='NumpyToPIL'),
    dict(type='torchvision/ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
    dict(type='PILToNumpy'),
]
grey = dict(type='RandomGrayscale', prob=0.2, keep_channels=True)
views = [[crop, flip], [crop, *jitter, grey, flip]]
train_pipeline = [dict(type='MultiView', num_views=[1, 1], transforms=views), pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
