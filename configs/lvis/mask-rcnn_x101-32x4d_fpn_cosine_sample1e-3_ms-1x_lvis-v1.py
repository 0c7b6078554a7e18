_base_ = 'mmdet::lvis/mask-rcnn_x101-32x4d_fpn_sample1e-3_ms-1x_lvis-v1.py'
predictor = dict(type='mmdisalign.detection.CosineLinear')
model = dict(roi_head=dict(bbox_head=dict(cls_predictor_cfg=predictor)))
val_evaluator = test_evaluator = dict(type='mmdisalign.detection.LongTailLVISMetric')
