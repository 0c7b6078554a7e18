# Stage 2 of ../shared/bench/camvid_stage1.py, which needs its own folder on PYTHONPATH.
_base_ = ['../../shared/bench/camvid_stage1.py', '../configs/_base_/disalign_seg.py']
class_prior = dict(
    source='work_dirs/bench/camvid/prior.json',
    groups=dict(
        head=['sky', 'building', 'road', 'tree'],
        body=['pavement', 'car', 'sign'],
        tail=['fence', 'pole', 'pedestrian', 'bicyclist'],
    ),
)
# exp_scale and the schedule were chosen on the validation images: see benchmarks/README.md.
model = dict(_base_.disalign.model, class_prior=class_prior, exp_scale=0.6)
val_evaluator = test_evaluator = dict(_base_.disalign.evaluator, class_prior=class_prior)
load_from = '../shared/bench/camvid_stage1.pth'
train_cfg = dict(max_iters=150, val_interval=150)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.05, weight_decay=0.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, begin=0, end=10, by_epoch=False),
    dict(type='PolyLR', power=0.9, begin=10, end=150, by_epoch=False),
]
default_hooks = dict(checkpoint=dict(interval=150), logger=dict(interval=10))
