# Stage 2 (DisAlign) of any mmdet config. mmengine refuses two bases with a key in common,
# so all of it is under one key, from which a config takes what it wants:
#
#   _base_ = ['my_stage1.py', __import__('mmdisalign').config_path('_base_/disalign_det.py')]
#   model = dict(
#       type=f'mmdisalign.detection.Calibrated{_base_.model.type}',
#       class_prior='my_train_annotations.json')
#   train_cfg, optim_wrapper, param_scheduler, default_hooks, log_processor = \
#       _base_.disalign.schedule
#   load_from = 'my_stage1.pth'
# What it holds is in mmdisalign/configs/disalign_det.py.
disalign = __import__('mmdisalign.configs').configs.over_base('disalign_det')
