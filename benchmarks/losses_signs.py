# The classifier of ../shared/bench/signs_stage1.py anew, by one loss or another: 600 iterations of
# two images train the box head, all else stays as it was. Needs that folder and this one on
# PYTHONPATH.
_base_ = ['../../shared/bench/signs_stage1.py']
annotations = '{{ fileDirname }}/../../shared/data/signs/annotations/'
custom_imports = dict(
    imports=['efficientnet_lite', 'train_only', 'mmdisalign.detection'], allow_failed_imports=False
)
custom_hooks = [dict(type='TrainOnly', part='roi_head.bbox_head')]
max_iters = 600
train_dataloader = dict(batch_size=2)
train_cfg = dict(max_iters=max_iters, val_begin=1000000)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=50, by_epoch=False),
    dict(type='PolyLR', power=0.9, eta_min=1e-6, by_epoch=False, begin=50, end=max_iters),
]
default_hooks = dict(checkpoint=dict(interval=max_iters))
val_evaluator = test_evaluator = dict(
    _delete_=True,
    type='mmdisalign.detection.LongTailLVISMetric',
    ann_file=annotations + 'signs_val.json',
    metric=['bbox', 'segm'],
)
