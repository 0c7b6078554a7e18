_base_ = './mask-rcnn_r50_fpn_random_ms-1x_lvis-v1.py'
# Tan et al., CVPR 2020, equation 7; the schedule is that of EQL.
loss = dict(
    _delete_=True,
    type='mmdisalign.detection.SoftmaxEQLLoss',
    class_prior=dict(source='lvis_v1', unit='images'),
    num_images=100170,
    lambda_=0.0011,
)
model = dict(roi_head=dict(bbox_head=dict(loss_cls=loss)))
