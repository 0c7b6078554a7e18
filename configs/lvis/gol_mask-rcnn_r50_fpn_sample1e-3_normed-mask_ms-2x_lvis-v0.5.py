_base_ = 'mmdet::lvis/mask-rcnn_r50_fpn_sample1e-3_ms-2x_lvis-v0.5.py'
# GOL as released (Alexandridis et al., ECCV 2022): Gumbel DropLoss and a normalised mask head.
loss = dict(
    _delete_=True,
    type='mmdisalign.detection.DropLoss',
    link='gumbel',
    class_prior=dict(source='lvis_v0.5', unit='images'),
    num_images=57263,
)
masks = dict(predictor_cfg=dict(type='NormedConv2d', tempearture=20))
model = dict(roi_head=dict(bbox_head=dict(loss_cls=loss), mask_head=masks))
val_evaluator = test_evaluator = dict(type='mmdisalign.detection.LongTailLVISMetric')
