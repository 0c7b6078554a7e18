# DisAlign on LVIS v1: Mask R-CNN R-50-FPN, from mmdet's published checkpoint.
_base_ = './lvis/disalign_mask-rcnn_r50_fpn_sample1e-3_ms_8xb2-9k_lvis-v1.py'
