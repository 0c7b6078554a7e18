# Stage 2 (DisAlign) of any config with `read_base` of mmdet. Those with `_base_` take
# configs/_base_/disalign_det.py, which is made of this.
#
#   with read_base():
#       from .my_stage1 import *
#       from mmdisalign.configs.disalign_det import disalign
#   model.update(
#       type='mmdisalign.detection.CalibratedMaskRCNN',  # Calibrated, and the name of the detector
#       class_prior='my_train_annotations.json')
#   train_cfg, optim_wrapper, param_scheduler, hooks, log_processor = disalign['schedule']
#   default_hooks.update(hooks)
#   load_from = 'my_stage1.pth'
disalign = dict(
    # By its full name: importing it registers the rest, and the stage-1 config keeps its
    # custom_imports.
    model=dict(type='mmdisalign.detection.CalibratedTwoStageDetector'),
    evaluator=dict(type='mmdisalign.detection.LongTailLVISMetric'),
    # The released schedule, for 16 images an iteration.
    schedule=[
        dict(type='IterBasedTrainLoop', max_iters=9000, val_interval=9000),
        dict(
            type='OptimWrapper',
            optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=0.0001),
        ),
        [
            dict(type='LinearLR', start_factor=0.001, begin=0, end=500, by_epoch=False),
            dict(type='MultiStepLR', milestones=[8000], gamma=0.1, end=9000, by_epoch=False),
        ],
        dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1000),
            logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
            calibration=dict(type='mmdisalign.engine.CalibrationHook', interval=50),
        ),
        dict(type='LogProcessor', window_size=50, by_epoch=False),
    ],
    # For a small data set: 200 iterations of a faster optimiser.
    short_schedule=[
        dict(type='IterBasedTrainLoop', max_iters=200, val_interval=200),
        dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=0.02, weight_decay=0.0),
        ),
        [
            dict(type='LinearLR', start_factor=0.05, begin=0, end=10, by_epoch=False),
            dict(type='PolyLR', power=0.9, begin=10, end=200, by_epoch=False),
        ],
        dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=200),
            logger=dict(type='LoggerHook', interval=10, log_metric_by_epoch=False),
            calibration=dict(type='mmdisalign.engine.CalibrationHook', interval=10),
        ),
        dict(type='LogProcessor', window_size=10, by_epoch=False),
    ],
)
