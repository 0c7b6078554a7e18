# Stage 1 on the synthetic scenes of tools/demo.py: mmdet's Mask R-CNN, on the first three stages of
# a ResNet-18 of a quarter of the width. It learns with a CPU in a minute.
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', 'mmdet::_base_/default_runtime.py']
data_root = 'work_dirs/demo/instances/scenes/'
classes = __import__('mmdisalign.data.scenes', fromlist=['scenes']).SceneSpec().classes[1:]
strides = [4, 8, 16]
roi = dict(out_channels=32, finest_scale=14, featmap_strides=strides)
model = dict(
    backbone=dict(depth=18, stem_channels=16, base_channels=16, frozen_stages=-1, init_cfg=None)
    | dict(norm_eval=False, num_stages=3, out_indices=(0, 1, 2), strides=(1, 2, 2))
    | dict(dilations=(1, 1, 1)),
    neck=dict(in_channels=[16, 32, 64], out_channels=32, num_outs=3),
    rpn_head=dict(
        in_channels=32,
        feat_channels=32,
        anchor_generator=dict(scales=[4], strides=strides),
    ),
    roi_head=dict(
        bbox_roi_extractor=roi,
        mask_roi_extractor=roi,
        bbox_head=dict(in_channels=32, fc_out_channels=128, num_classes=11),
        mask_head=dict(in_channels=32, conv_out_channels=32, num_convs=1, num_classes=11),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=100, max_per_img=100), rcnn=dict(sampler=dict(num=32))
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=100, max_per_img=100), rcnn=dict(score_thr=0.001, max_per_img=30)
    ),
)
load = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
]
keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
scale = dict(type='Resize', scale=(96, 96), keep_ratio=True)
dataset = dict(
    type='LVISV1Dataset',
    data_root=data_root,
    metainfo=dict(classes=classes),
    data_prefix=dict(img=''),
)
train_dataloader = dict(
    batch_size=4,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        **dataset,
        ann_file='annotations/scenes_train.json',
        pipeline=[*load, scale, dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')],
    ),
)
val_dataloader = test_dataloader = dict(
    batch_size=8,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **dataset,
        ann_file='annotations/scenes_val.json',
        test_mode=True,
        pipeline=[load[0], scale, dict(type='PackDetInputs', meta_keys=keys)],
    ),
)
val_evaluator = test_evaluator = dict(
    type='mmdisalign.detection.LongTailLVISMetric',
    ann_file=data_root + 'annotations/scenes_val.json',
    metric=['bbox', 'segm'],
    fixed_ap=True,
)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=3e-3, betas=(0.9, 0.99), weight_decay=0.01),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, begin=0, end=60, by_epoch=False),
    dict(type='PolyLR', power=0.9, begin=60, end=400, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=400, val_interval=400)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=400))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
