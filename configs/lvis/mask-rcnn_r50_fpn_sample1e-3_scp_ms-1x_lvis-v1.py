# With mmdet's CopyPaste (Ghiasi et al., CVPR 2021) over repeat-factor sampling.
_base_ = 'mmdet::lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1.py'
repeated = _base_.train_dataloader.dataset
*load_and_augment, pack = repeated.dataset.pipeline
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='MultiImageMixDataset',
        dataset=dict(repeated, dataset=dict(repeated.dataset, pipeline=load_and_augment)),
        pipeline=[dict(type='CopyPaste', max_num_pasted=100), pack],
    )
)
val_evaluator = test_evaluator = dict(type='mmdisalign.detection.LongTailLVISMetric')
