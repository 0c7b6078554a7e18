_base_ = './mask-rcnn_r50_fpn_random_ms-2x_lvis-v0.5.py'
# Hsieh et al., AAAI 2021, on the data of the paper; the schedule is mmdet's.
loss = dict(
    _delete_=True,
    type='mmdisalign.detection.DropLoss',
    class_prior=dict(source='lvis_v0.5', unit='images'),
    num_images=57263,
)
model = dict(roi_head=dict(bbox_head=dict(loss_cls=loss)))
