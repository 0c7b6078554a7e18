_base_ = [
    'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/lvis_v0.5_instance.py',
    'mmdet::_base_/schedules/schedule_2x.py',
    'mmdet::_base_/default_runtime.py',
]
bbox_heads = [dict(head, num_classes=1230) for head in _base_.model.roi_head.bbox_head]
model = dict(
    backbone=dict(
        type='ResNeXt',
        depth=101,
        groups=64,
        base_width=4,
        init_cfg=dict(checkpoint='open-mmlab://resnext101_64x4d'),
    ),
    roi_head=dict(bbox_head=bbox_heads, mask_head=dict(num_classes=1230)),
    test_cfg=dict(rcnn=dict(score_thr=0.0001, max_per_img=300)),
)
# Without mmdet's ClassBalancedDataset, which repeats the images of rare classes.
train_dataloader = dict(dataset=dict(_base_.train_dataloader.dataset.dataset, _delete_=True))
