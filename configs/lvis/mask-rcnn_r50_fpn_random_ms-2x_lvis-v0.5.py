_base_ = 'mmdet::lvis/mask-rcnn_r50_fpn_sample1e-3_ms-2x_lvis-v0.5.py'
# Without mmdet's ClassBalancedDataset, which repeats the images of rare classes.
train_dataloader = dict(dataset=dict(_base_.train_dataloader.dataset.dataset, _delete_=True))
val_evaluator = test_evaluator = dict(type='mmdisalign.detection.LongTailLVISMetric')
