# Stage 2 (DisAlign) of any config with `read_base` of mmseg. Those with `_base_` take
# configs/_base_/disalign_seg.py, which is made of this.
#
#   with read_base():
#       from .my_stage1 import *
#       from mmdisalign.configs.disalign_seg import disalign
#   model.update(
#       type='mmdisalign.segmentation.CalibratedEncoderDecoder',  # Calibrated, and the segmentor
#       class_prior='my_prior.json')
#   train_cfg, optim_wrapper, param_scheduler, hooks = disalign['schedule']
#   default_hooks.update(hooks)
#   val_evaluator = test_evaluator = dict(**disalign['evaluator'], class_prior='my_prior.json')
#   load_from = 'my_stage1.pth'
disalign = dict(
    # By its full name: importing it registers the rest, and the stage-1 config keeps its
    # custom_imports.
    model=dict(type='mmdisalign.segmentation.CalibratedEncoderDecoder'),
    evaluator=dict(type='mmdisalign.segmentation.LongTailIoUMetric', iou_metrics=['mIoU']),
    # The released schedule: train_cfg, optim_wrapper, param_scheduler, default_hooks.
    schedule=[
        dict(type='IterBasedTrainLoop', max_iters=4000, val_interval=800),
        dict(
            type='OptimWrapper',
            optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0005),
        ),
        [dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=4000, by_epoch=False)],
        dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=800),
            logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
            calibration=dict(type='mmdisalign.engine.CalibrationHook', interval=50),
        ),
    ],
    # For a small data set: 150 iterations of a faster optimiser.
    short_schedule=[
        dict(type='IterBasedTrainLoop', max_iters=150, val_interval=150),
        dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=0.05, weight_decay=0.0),
        ),
        [
            dict(type='LinearLR', start_factor=0.05, begin=0, end=10, by_epoch=False),
            dict(type='PolyLR', power=0.9, begin=10, end=150, by_epoch=False),
        ],
        dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=150),
            logger=dict(type='LoggerHook', interval=10, log_metric_by_epoch=False),
            calibration=dict(type='mmdisalign.engine.CalibrationHook', interval=10),
        ),
    ],
)
