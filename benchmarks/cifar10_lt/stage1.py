# CIFAR-10-LT, imbalance 100: ResNet-32 with plain cross-entropy, 20 epochs. `benchmarks/run.py`
# unpacks the images here, and halves the validation images: on one half τ is chosen, on the
# other everything is reported.
_base_ = ['../../configs/_base_/resnet32_cifar_lt.py', 'mmpretrain::_base_/default_runtime.py']
data_root = 'work_dirs/bench/cifar10_lt/data/'
normalize = dict(mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255], to_rgb=True)
data_preprocessor = dict(num_classes=10, **normalize)
train_list = data_root + 'CIFAR10_LT_train.txt'
# No class has fewer than the 20 images of ImageNet-LT's few-shot classes: thirds, by rank.
class_prior = dict(source=train_list, groups=dict(by='rank', head=3, body=4))
load = dict(type='LoadImageFromFile')
augment = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
]
dataset = dict(type='CustomDataset', data_root=data_root, data_prefix='')
train_dataloader = dict(
    batch_size=128,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        **dataset,
        ann_file='CIFAR10_LT_train.txt',
        pipeline=[load, *augment, dict(type='PackInputs')],
    ),
)
test = dict(
    batch_size=250,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
)
pipeline = [load, dict(type='PackInputs')]
val_dataloader = dict(**test, dataset=dict(**dataset, ann_file='choose.txt', pipeline=pipeline))
test_dataloader = dict(**test, dataset=dict(**dataset, ann_file='report.txt', pipeline=pipeline))
metric = dict(type='mmdisalign.classification.LongTailAccuracy', class_prior=class_prior)
val_evaluator = test_evaluator = metric
train_cfg = dict(by_epoch=True, max_epochs=20, val_interval=20)
val_cfg = test_cfg = dict()
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=19, begin=1, end=20, convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(interval=20))
randomness = dict(seed=0)
