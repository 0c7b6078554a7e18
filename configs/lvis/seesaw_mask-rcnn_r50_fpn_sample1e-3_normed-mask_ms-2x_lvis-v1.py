_base_ = 'mmdet::seesaw_loss/mask-rcnn_r50_fpn_seesaw-loss-normed-mask_sample1e-3-ms-2x_lvis-v1.py'
# Wang et al., CVPR 2021: mmdet's own, with an evaluator that runs on today's numpy.
evaluator = dict(type='mmdisalign.detection.LongTailLVISMetric')
val_evaluator = test_evaluator = dict(_base_.val_evaluator, _delete_=True, **evaluator)
