# Stage 2 on the synthetic scenes of tools/demo.py.
_base_ = ['./mask-rcnn_r18_fpn_scenes-96x96.py', '../_base_/disalign_det.py']
class_prior = 'work_dirs/demo/instances/scenes/annotations/scenes_train.json'
model = dict(_base_.disalign.model, class_prior=class_prior, exp_scale=0.6)
train_cfg, optim_wrapper, param_scheduler, default_hooks, log_processor = (
    _base_.disalign.short_schedule
)
val_evaluator = test_evaluator = dict(class_prior=class_prior)
load_from = 'work_dirs/demo/instances/stage1/iter_400.pth'
