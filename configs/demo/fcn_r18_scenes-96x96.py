# Stage 1 on the synthetic scenes of tools/demo.py: mmseg's FCN on the first three stages of a
# ResNet-18 of a quarter of the width. It learns with a CPU in half a minute.
_base_ = ['mmseg::_base_/models/fcn_r50-d8.py', 'mmseg::_base_/default_runtime.py']
data_root = 'work_dirs/demo/segmentation/scenes'
classes = __import__('mmdisalign.data.scenes', fromlist=['scenes']).SceneSpec().classes
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(96, 96)),
    backbone=dict(
        depth=18,
        stem_channels=16,
        base_channels=16,
        num_stages=3,
        out_indices=(0, 1, 2),
        strides=(1, 2, 1),
        dilations=(1, 1, 2),
    ),
    decode_head=dict(
        in_channels=64, in_index=2, channels=32, num_convs=1, concat_input=False, num_classes=12
    ),
    auxiliary_head=None,
)
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
dataset = dict(
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=dict(classes=classes),
    reduce_zero_label=True,
)
train_dataloader = dict(
    batch_size=8,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=[*load, dict(type='RandomFlip', prob=0.5), dict(type='PackSegInputs')],
    ),
)
val_dataloader = test_dataloader = dict(
    batch_size=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=[*load, dict(type='PackSegInputs')],
    ),
)
val_evaluator = test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=2e-2, betas=(0.9, 0.99), weight_decay=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, begin=0, end=100, by_epoch=False),
    dict(type='PolyLR', power=0.9, begin=100, end=400, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=400, val_interval=400)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=400))
randomness = dict(seed=0)
