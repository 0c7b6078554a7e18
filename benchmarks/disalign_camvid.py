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
# exp_scale and the optimiser were chosen on the validation images: see benchmarks/README.md.
model = dict(_base_.disalign.model, class_prior=class_prior, exp_scale=0.6)
val_evaluator = test_evaluator = dict(_base_.disalign.evaluator, class_prior=class_prior)
load_from = '../shared/bench/camvid_stage1.pth'
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.short_schedule
