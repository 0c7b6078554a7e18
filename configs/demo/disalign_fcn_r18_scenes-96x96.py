# Stage 2 on the synthetic scenes of tools/demo.py.
_base_ = ['./fcn_r18_scenes-96x96.py', '../_base_/disalign_seg.py']
class_prior = 'work_dirs/demo/prior.json'
model = dict(_base_.disalign.model, class_prior=class_prior, exp_scale=0.8)
val_evaluator = test_evaluator = dict(_base_.disalign.evaluator, class_prior=class_prior)
load_from = 'work_dirs/demo/stage1/iter_600.pth'
train_cfg = dict(max_iters=200, val_interval=200)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.05, weight_decay=0.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, begin=0, end=10, by_epoch=False),
    dict(type='PolyLR', power=0.9, begin=10, end=200, by_epoch=False),
]
default_hooks = dict(checkpoint=dict(interval=200))
