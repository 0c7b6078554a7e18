# Stage 2 of ../shared/bench/camvid_mask2former_stage1.py, which needs its own folder on PYTHONPATH;
# `python benchmarks/run.py camvid_mask2former` trains that first, and names its checkpoint.
_base_ = [
    '../../shared/bench/camvid_mask2former_stage1.py',
    '../configs/_base_/disalign_seg.py',
]
class_prior = dict(
    source='work_dirs/bench/camvid/prior.json',
    groups=dict(
        head=['sky', 'building', 'road', 'tree'],
        body=['pavement', 'car', 'sign'],
        tail=['fence', 'pole', 'pedestrian', 'bicyclist'],
    ),
)
# ρ and the schedule are those of the pixel classifier beside this file, not chosen for this model.
model = dict(_base_.disalign.model, class_prior=class_prior, exp_scale=0.6)
val_evaluator = test_evaluator = dict(_base_.disalign.evaluator, class_prior=class_prior)
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.short_schedule
