# The methods that DisAlign is compared with, over the same stage-1 checkpoint. Each entry has the
# keys of a config, to take over as they are:
#
#   _base_ = ['my_stage1.py', __import__('mmdisalign').config_path('_base_/decoupled_cls.py')]
#   model = _base_.decoupled.crt.model
#   train_dataloader = _base_.decoupled.crt.train_dataloader
#   custom_hooks = _base_.decoupled.crt.custom_hooks
#   train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.schedule
#   load_from = 'my_stage1.pth'
#
# Where an entry has a loss, that loss takes the class frequencies:
#
#   model = dict(
#       _base_.decoupled.balanced_softmax.model,
#       head=dict(
#           loss=dict(_base_.decoupled.balanced_softmax.loss, class_prior='my_train_list.txt')
#       ),
#   )
_base_ = './disalign_cls.py'
decoupled = dict(
    # Kang et al. (2020): a new classifier, all classes equally often.
    crt=dict(
        model=dict(type='mmdisalign.classification.CalibratedImageClassifier', stage='classifier'),
        train_dataloader=dict(
            sampler=dict(_delete_=True, type='mmdisalign.classification.ClassSampler', power=0.0)
        ),
        custom_hooks=[dict(type='mmdisalign.classification.ResetClassifierHook')],
    ),
    # Kang et al. (2020): one factor a class, all classes equally often. The loss stays.
    lws=dict(
        model=dict(
            type='mmdisalign.classification.CalibratedImageClassifier',
            stage='calibration',
            head=dict(type='mmdisalign.classification.LWSLinearClsHead'),
        ),
        train_dataloader=dict(
            sampler=dict(_delete_=True, type='mmdisalign.classification.ClassSampler', power=0.0)
        ),
    ),
    # Ren et al. (2020): a new classifier, whose loss knows the class counts.
    balanced_softmax=dict(
        model=dict(type='mmdisalign.classification.CalibratedImageClassifier', stage='classifier'),
        loss=dict(_delete_=True, type='mmdisalign.classification.BalancedSoftmaxLoss'),
        custom_hooks=[dict(type='mmdisalign.classification.ResetClassifierHook')],
    ),
    # Ren et al. (2020): the same, and how often each class is seen is learned.
    meta_sampler=dict(
        model=dict(type='mmdisalign.classification.CalibratedImageClassifier', stage='classifier'),
        loss=dict(_delete_=True, type='mmdisalign.classification.BalancedSoftmaxLoss'),
        train_dataloader=dict(
            sampler=dict(_delete_=True, type='mmdisalign.classification.LearnedClassSampler')
        ),
        custom_hooks=[
            dict(type='mmdisalign.classification.ResetClassifierHook'),
            dict(type='mmdisalign.classification.MetaSamplerHook'),
        ],
    ),
    # A new, cosine classifier with the plain loss: what DisAlign with a cosine classifier needs
    # where stage 1 had a linear one.
    cosine=dict(
        model=dict(
            type='mmdisalign.classification.CalibratedImageClassifier',
            stage='classifier',
            head=dict(type='mmdisalign.classification.CosineClsHead'),
        ),
        custom_hooks=[dict(type='mmdisalign.classification.ResetClassifierHook')],
    ),
    # Sampling for any stage (Kang et al. 2020): by the square root of the class frequency, or from
    # images equally often to classes equally often: progressive_epochs are those of the stage.
    square_root=dict(
        train_dataloader=dict(
            sampler=dict(_delete_=True, type='mmdisalign.classification.ClassSampler', power=0.5)
        )
    ),
    progressive=dict(
        train_dataloader=dict(
            sampler=dict(
                _delete_=True,
                type='mmdisalign.classification.ClassSampler',
                progressive_epochs=90,
            )
        )
    ),
)
