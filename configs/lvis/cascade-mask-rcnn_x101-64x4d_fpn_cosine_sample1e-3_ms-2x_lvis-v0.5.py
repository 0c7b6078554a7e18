_base_ = './cascade-mask-rcnn_x101-64x4d_fpn_sample1e-3_ms-2x_lvis-v0.5.py'
predictor = dict(type='mmdisalign.detection.CosineLinear')
bbox_heads = [dict(head, cls_predictor_cfg=predictor) for head in _base_.model.roi_head.bbox_head]
model = dict(roi_head=dict(bbox_head=bbox_heads))
