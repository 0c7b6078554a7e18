# DisAlign of the cosine classifier.
_base_ = ['./stage1.py', '../../configs/_base_/decoupled_cls.py']
model = dict(
    _base_.disalign.model,
    class_prior=_base_.class_prior,
    head=dict(type='mmdisalign.classification.CosineClsHead'),
)
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.short_schedule
# `benchmarks/run.py` names the one of its seed.
load_from = 'work_dirs/bench/cifar10_lt/cosine_seed0/epoch_3.pth'
