_base_ = './mask-rcnn_r50_fpn_random_ms-1x_lvis-v1.py'
# Alexandridis et al., ECCV 2022; as released, but for 8 x 2 images in the place of 4 x 4.
loss = dict(_delete_=True, type='mmdisalign.detection.GumbelLoss', num_classes=1203)
model = dict(roi_head=dict(bbox_head=dict(loss_cls=loss)))
