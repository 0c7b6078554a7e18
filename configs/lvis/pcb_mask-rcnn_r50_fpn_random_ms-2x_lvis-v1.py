_base_ = './mask-rcnn_r50_fpn_random_ms-2x_lvis-v1.py'
# He et al., CVPR 2022, without its iterative head.
loss = dict(_delete_=True, type='mmdisalign.detection.PCBLoss', num_classes=1203)
model = dict(roi_head=dict(bbox_head=dict(loss_cls=loss)))
