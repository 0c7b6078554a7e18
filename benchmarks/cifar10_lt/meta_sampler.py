# Balanced Softmax, with class rates that the Meta Sampler learns.
_base_ = ['./stage1.py', '../../configs/_base_/decoupled_cls.py']
loss = dict(_base_.decoupled.meta_sampler.loss, class_prior=_base_.class_prior)
model = dict(_base_.decoupled.meta_sampler.model, head=dict(loss=loss))
train_dataloader = _base_.decoupled.meta_sampler.train_dataloader
# The short schedule has 291 iterations: each learns, and faster than by default.
reset, learn = _base_.decoupled.meta_sampler.custom_hooks
custom_hooks = [reset, dict(learn, interval=1, lr=0.05)]
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.short_schedule
load_from = 'work_dirs/bench/cifar10_lt/stage1/epoch_20.pth'
