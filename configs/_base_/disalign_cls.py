# Stage 2 (DisAlign) of any mmpretrain classifier. mmengine refuses two bases with a key in common,
# so all of it is under one key, from which a config takes what it wants:
#
#   _base_ = ['my_stage1.py', __import__('mmdisalign').config_path('_base_/disalign_cls.py')]
#   model = dict(
#       type=f'mmdisalign.classification.Calibrated{_base_.model.type}',
#       class_prior='my_train_list.txt')
#   train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.schedule
#   val_evaluator = dict(_base_.disalign.evaluator, class_prior='my_train_list.txt')
#   test_evaluator = dict(_base_.disalign.evaluator, class_prior='my_train_list.txt')
#   custom_hooks = []  # an EMAHook of stage 1 would average the calibration with its start
#   load_from = 'my_stage1.pth'
# What it holds is in mmdisalign/configs/disalign_cls.py.
disalign = __import__('mmdisalign.configs').configs.over_base('disalign_cls')
