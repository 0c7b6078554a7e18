# Stage 2 on the synthetic scenes of tools/demo.py.
_base_ = ['./fcn_r18_scenes-96x96.py', '../_base_/disalign_seg.py']
class_prior = 'work_dirs/demo/segmentation/prior.json'
model = dict(_base_.disalign.model, class_prior=class_prior, exp_scale=0.8)
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.short_schedule
val_evaluator = test_evaluator = dict(_base_.disalign.evaluator, class_prior=class_prior)
load_from = 'work_dirs/demo/segmentation/stage1/iter_400.pth'
