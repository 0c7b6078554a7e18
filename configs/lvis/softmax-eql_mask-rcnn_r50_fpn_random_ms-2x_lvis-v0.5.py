_base_ = './mask-rcnn_r50_fpn_random_ms-2x_lvis-v0.5.py'
# Tan et al., CVPR 2020, equation 7; the schedule is mmdet's.
loss = dict(
    _delete_=True,
    type='mmdisalign.detection.SoftmaxEQLLoss',
    class_prior=dict(source='lvis_v0.5', unit='images'),
    num_images=57263,
)
model = dict(roi_head=dict(bbox_head=dict(loss_cls=loss)))
