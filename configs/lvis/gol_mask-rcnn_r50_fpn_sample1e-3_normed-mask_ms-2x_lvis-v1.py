_base_ = './mask-rcnn_r50_fpn_sample1e-3_ms-2x_lvis-v1.py'
# GOL as released (Alexandridis et al., ECCV 2022): Gumbel DropLoss and a normalised mask head.
loss = dict(
    _delete_=True,
    type='mmdisalign.detection.DropLoss',
    link='gumbel',
    class_prior=dict(source='lvis_v1', unit='images'),
    num_images=100170,
    lambda_=0.0011,
)
masks = dict(predictor_cfg=dict(type='NormedConv2d', tempearture=20))
model = dict(roi_head=dict(bbox_head=dict(loss_cls=loss), mask_head=masks))
