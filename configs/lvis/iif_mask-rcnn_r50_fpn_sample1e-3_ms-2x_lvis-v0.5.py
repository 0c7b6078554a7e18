_base_ = 'mmdet::lvis/mask-rcnn_r50_fpn_sample1e-3_ms-2x_lvis-v0.5.py'
# Alexandridis et al., TIP 2023, in its best form for LVIS: base 10, of instances.
loss = dict(
    _delete_=True,
    type='mmdisalign.detection.IIFLoss',
    class_prior='lvis_v0.5',
    variant='base10',
)
model = dict(roi_head=dict(bbox_head=dict(loss_cls=loss)))
val_evaluator = test_evaluator = dict(type='mmdisalign.detection.LongTailLVISMetric')
