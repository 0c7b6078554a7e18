# Stage 2 (DisAlign) of any mmseg config. mmengine refuses two bases with a key in common, so all
# of it is under one key, from which a config takes what it wants:
#
#   _base_ = ['my_stage1.py', __import__('mmdisalign').config_path('_base_/disalign_seg.py')]
#   model = dict(
#       type=f'mmdisalign.segmentation.Calibrated{_base_.model.type}', class_prior='my_prior.json')
#   train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.schedule
#   val_evaluator = test_evaluator = dict(_base_.disalign.evaluator, class_prior='my_prior.json')
#   load_from = 'my_stage1.pth'
# What it holds is in mmdisalign/configs/disalign_seg.py.
disalign = __import__('mmdisalign.configs').configs.over_base('disalign_seg')
