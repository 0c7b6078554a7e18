# Stage 2 of ../shared/bench/signs_stage1.py, which needs its own folder on PYTHONPATH.
_base_ = ['../../shared/bench/signs_stage1.py', '../configs/_base_/disalign_det.py']
shared = '{{ fileDirname }}/../../shared/'
annotations = shared + 'data/signs/annotations/'
# The schedule of facades, and an exp_scale between theirs and the released one: not tuned here.
model = dict(
    type=f'mmdisalign.detection.Calibrated{_base_.model.type}',
    class_prior=annotations + 'signs_train.json',
    exp_scale=0.8,
    train_cfg=dict(rcnn=dict(sampler=dict(num=512))),
)
train_cfg, optim_wrapper, param_scheduler, default_hooks, log_processor = (
    _base_.disalign.short_schedule
)
train_cfg.update(max_iters=400, val_interval=400)
param_scheduler[1].end = default_hooks.checkpoint.interval = 400
val_evaluator = test_evaluator = dict(
    _base_.disalign.evaluator,
    _delete_=True,
    ann_file=annotations + 'signs_val.json',
    metric=['bbox', 'segm'],
    fixed_ap=True,
)
load_from = shared + 'bench/signs_stage1.pth'
