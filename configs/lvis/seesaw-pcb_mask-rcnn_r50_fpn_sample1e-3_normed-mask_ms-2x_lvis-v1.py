_base_ = './seesaw_mask-rcnn_r50_fpn_sample1e-3_normed-mask_ms-2x_lvis-v1.py'
# He et al., CVPR 2022, without its iterative head.
loss = dict(_delete_=True, type='mmdisalign.detection.SeesawPCBLoss', num_classes=1203)
model = dict(roi_head=dict(bbox_head=dict(loss_cls=loss)))
