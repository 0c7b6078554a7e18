_base_ = ['./resnet32_1xb128-200e_cifar10-lt-if100.py', '../_base_/disalign_cls.py']
model = dict(
    _base_.disalign.model,
    head=dict(type='mmdisalign.classification.CosineClsHead'),
    class_prior=_base_.class_prior,
    exp_scale=1.2,
)
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.short_schedule
load_from = 'work_dirs/cosine_resnet32_1xb128-3e_cifar10-lt-if100/epoch_3.pth'
