_base_ = './mask-rcnn_r50_fpn_random_ms-1x_lvis-v1.py'
# Tan et al., CVPR 2021; as released.
loss = dict(_delete_=True, type='mmdisalign.detection.EQLv2Loss', num_classes=1203)
model = dict(roi_head=dict(bbox_head=dict(loss_cls=loss)))
