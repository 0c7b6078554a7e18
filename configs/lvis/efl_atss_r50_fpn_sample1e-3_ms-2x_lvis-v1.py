_base_ = './mask-rcnn_r50_fpn_sample1e-3_ms-2x_lvis-v1.py'
# Li et al., CVPR 2022; its base is a RetinaNet with what ATSS has, and more.
model = __import__('mmengine.hub').hub.get_config('mmdet::atss/atss_r50_fpn_1x_coco.py').model
model['bbox_head']['num_classes'] = 1203
model['bbox_head']['loss_cls'] = dict(
    type='mmdisalign.detection.EqualizedFocalLoss', use_sigmoid=True, num_classes=1203
)
model.update(_delete_=True, test_cfg=dict(model.test_cfg, score_thr=0.0001, max_per_img=300))
optim_wrapper = dict(optimizer=dict(lr=0.01))
val_evaluator = test_evaluator = dict(metric='bbox')
