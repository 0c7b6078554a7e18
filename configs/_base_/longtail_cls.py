# Methods that train a classifier from the start, or that DisAlign is compared with in other stages,
# over any mmpretrain config. Each entry has the keys of a config; a loss takes the class
# frequencies:
#
#   _base_ = ['my_config.py', __import__('mmdisalign').config_path('_base_/longtail_cls.py')]
#   own = _base_.longtail.ldam_drw
#   model = dict(head=dict(own.head, loss=dict(own.loss, class_prior='my_train_list.txt')))
#   custom_hooks = own.custom_hooks
#
# Hooks that watch the validation images decide by them: name others than those of the test.
longtail = dict(
    # Ren et al. (2020), which many of those below contain.
    balanced_softmax=dict(
        head=dict(),
        loss=dict(_delete_=True, type='mmdisalign.classification.BalancedSoftmaxLoss'),
    ),
    # Cui et al. (2019).
    class_balanced=dict(
        head=dict(),
        loss=dict(_delete_=True, type='mmdisalign.classification.ClassBalancedLoss'),
    ),
    # Cao et al. (2019), with the deferred re-weighting of the last fifth of 200 epochs.
    ldam_drw=dict(
        head=dict(type='mmdisalign.classification.CosineClsHead', scale=1.0, learned=False),
        loss=dict(
            _delete_=True, type='mmdisalign.classification.LDAMLoss', normalizer='class_weight'
        ),
        custom_hooks=[dict(type='mmdisalign.classification.DeferredReweightingHook', begin=160)],
    ),
    # Kini et al. (2021).
    vs=dict(
        head=dict(),
        loss=dict(_delete_=True, type='mmdisalign.classification.VSLoss'),
    ),
    # Hong et al. (2021).
    lade=dict(
        head=dict(),
        loss=dict(_delete_=True, type='mmdisalign.classification.LADELoss'),
    ),
    # Li et al. (2022), its first stage; the second is decoupled.crt of a cosine classifier.
    gcl=dict(
        head=dict(type='mmdisalign.classification.CosineClsHead', scale=1.0, learned=False),
        loss=dict(_delete_=True, type='mmdisalign.classification.GCLLoss'),
    ),
    # Xu et al. (2023): LiVT's loss.
    balanced_bce=dict(
        head=dict(cal_acc=False),
        loss=dict(
            _delete_=True, type='mmdisalign.classification.BalancedBCELoss', label_smooth_val=0.1
        ),
    ),
    # Sinha et al. (2020, 2022): classes are weighed, or sampled, by how badly they fare.
    cdb_w=dict(
        head=dict(),
        loss=dict(_delete_=True, type='mmdisalign.classification.CDBLoss'),
        custom_hooks=[dict(type='mmdisalign.classification.ClassDifficultyHook')],
        train_cfg=dict(val_interval=1),
    ),
    cdb_s=dict(
        custom_hooks=[
            dict(type='mmdisalign.classification.ClassDifficultyHook', target='sampler', least=0.01)
        ],
        train_dataloader=dict(
            sampler=dict(_delete_=True, type='mmdisalign.classification.LearnedClassSampler')
        ),
        train_cfg=dict(val_interval=1),
    ),
    # Sinha & Ohashi (2023).
    difficulty_net=dict(
        head=dict(),
        loss=dict(_delete_=True, type='mmdisalign.classification.DifficultyNetLoss'),
        custom_hooks=[dict(type='mmdisalign.classification.DifficultyNetHook')],
        train_cfg=dict(val_interval=1),
    ),
    # Tang et al. (2020); alpha is chosen after training: 1 for CIFAR-10, 1.5 for CIFAR-100, 3 else.
    tde=dict(head=dict(type='mmdisalign.classification.TDEClsHead')),
    # Wang et al. (2022), ECCV.
    vmf=dict(
        head=dict(type='mmdisalign.classification.VMFClsHead'),
        loss=dict(_delete_=True, type='mmdisalign.classification.BalancedSoftmaxLoss'),
        paramwise_cfg=dict(
            custom_keys={
                'head.fc': dict(lr_mult=0.5),
                'head.fc.kappa': dict(lr_mult=0.5, decay_mult=0.0),
            }
        ),
    ),
    # Wang et al. (2022), ACML: a second stage; class_prior goes to the model.
    marc=dict(
        model=dict(
            type='mmdisalign.classification.CalibratedImageClassifier',
            head=dict(type='mmdisalign.classification.MARCLinearClsHead'),
        ),
    ),
    # Iscen et al. (2021): teachers=[dict(config=..., checkpoint=...)] go to the model, which begins
    # anew; several need a neck, see DistilledImageClassifier.
    cbd=dict(
        model=dict(
            type='mmdisalign.classification.DistilledImageClassifier',
            head=dict(type='mmdisalign.classification.CosineClsHead', scale=20.0, learned=False),
        ),
        train_dataloader=dict(
            sampler=dict(_delete_=True, type='mmdisalign.classification.ClassSampler', power=0.0)
        ),
    ),
    # Li et al. (2021), stage I: two views an image, a MultiView with num_views=[1, 1].
    ssd_features=dict(
        model=dict(
            type='mmdisalign.classification.MoCoImageClassifier',
            projector=dict(
                type='MoCoV2Neck', in_channels=2048, hid_channels=2048, out_channels=128
            ),
        ),
    ),
    # Li et al. (2021), stage III; stage II, the teacher, is decoupled.lws.
    ssd=dict(
        model=dict(
            type='mmdisalign.classification.DistilledImageClassifier',
            distill='scores',
            head=dict(type='mmdisalign.classification.SelfDistilledClsHead'),
        ),
    ),
    # Liu et al. (2022): EMANATE, of features of earlier epochs.
    breadcrumb=dict(
        head=dict(type='mmdisalign.classification.BreadcrumbClsHead'),
        custom_hooks=[dict(type='mmdisalign.classification.BreadcrumbHook')],
    ),
    # Shi et al. (2024), LIFT: a pretrained ViT stays as it is, but for LoRA in its attention;
    # backbone=dict(_delete_=True, **own.backbone, module=...), which names its weights.
    lift=dict(
        backbone=dict(type='LoRAModel', rank=32, alpha=1, targets=[dict(type='qkv')]),
        head=dict(
            _delete_=True,
            type='mmdisalign.classification.CosineClsHead',
            scale=25.0,
            learned=False,
        ),
        loss=dict(type='mmdisalign.classification.BalancedSoftmaxLoss'),
        custom_hooks=[dict(type='mmdisalign.classification.ClassMeansHook')],
    ),
    # Zhang (2021): whitened features; its samplers B3RS and BET have no published constants.
    whitening=dict(head=dict(type='mmdisalign.classification.WhitenedClsHead', num_groups=4)),
)
