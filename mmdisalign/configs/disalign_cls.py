# Stage 2 (DisAlign) of any config with `read_base` of mmpretrain. Those with `_base_` take
# configs/_base_/disalign_cls.py, which is made of this.
#
#   with read_base():
#       from .my_stage1 import *
#       from mmdisalign.configs.disalign_cls import disalign
#   model.update(
#       type='mmdisalign.classification.CalibratedImageClassifier',
#       class_prior='my_train_list.txt')
#   train_cfg, optim_wrapper, param_scheduler, hooks = disalign['schedule']
#   default_hooks.update(hooks)
#   val_evaluator = test_evaluator = dict(**disalign['evaluator'], class_prior='my_train_list.txt')
#   custom_hooks = []  # an EMAHook of stage 1 would average the calibration with its start
#   load_from = 'my_stage1.pth'
disalign = dict(
    # By its full name: importing it registers the rest, and the stage-1 config keeps its
    # custom_imports.
    model=dict(type='mmdisalign.classification.CalibratedImageClassifier'),
    evaluator=dict(type='mmdisalign.classification.LongTailAccuracy'),
    # The released schedule, for 256 images an iteration: train_cfg, optim_wrapper,
    # param_scheduler, default_hooks.
    schedule=[
        dict(by_epoch=True, max_epochs=10, val_interval=2),
        dict(
            type='OptimWrapper',
            optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.0005),
        ),
        [dict(type='CosineAnnealingLR', T_max=10, by_epoch=True)],
        dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=True, interval=2),
            logger=dict(type='LoggerHook', interval=100),
            calibration=dict(type='mmdisalign.engine.CalibrationHook', interval=100),
        ),
    ],
    # For a data set of some ten thousand images: three epochs of a faster optimiser.
    short_schedule=[
        dict(by_epoch=True, max_epochs=3, val_interval=3),
        dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=0.05, weight_decay=0.0),
        ),
        [dict(type='CosineAnnealingLR', T_max=3, convert_to_iter_based=True)],
        dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=True, interval=3),
            logger=dict(type='LoggerHook', interval=50),
            calibration=dict(type='mmdisalign.engine.CalibrationHook', interval=50),
        ),
    ],
)
