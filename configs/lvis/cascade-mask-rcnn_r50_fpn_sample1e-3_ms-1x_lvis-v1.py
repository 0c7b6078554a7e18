_base_ = [
    'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/lvis_v1_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]
bbox_heads = [dict(head, num_classes=1203) for head in _base_.model.roi_head.bbox_head]
model = dict(
    roi_head=dict(bbox_head=bbox_heads, mask_head=dict(num_classes=1203)),
    test_cfg=dict(rcnn=dict(score_thr=0.0001, max_per_img=300)),
)
val_evaluator = test_evaluator = dict(type='mmdisalign.detection.LongTailLVISMetric')
