_base_ = 'mmdet::lvis/mask-rcnn_r50_fpn_sample1e-3_ms-2x_lvis-v0.5.py'
# He et al., CVPR 2022, without its iterative head.
loss = dict(_delete_=True, type='mmdisalign.detection.SeesawPCBLoss', num_classes=1230)
masks = dict(predictor_cfg=dict(type='NormedConv2d', tempearture=20))
bbox_head = dict(loss_cls=loss, cls_predictor_cfg=dict(type='NormedLinear', tempearture=20))
model = dict(roi_head=dict(bbox_head=bbox_head, mask_head=masks))
val_evaluator = test_evaluator = dict(type='mmdisalign.detection.LongTailLVISMetric')
