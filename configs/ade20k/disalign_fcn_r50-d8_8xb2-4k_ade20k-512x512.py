_base_ = ['mmseg::fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512.py', '../_base_/disalign_ade20k.py']
model = _base_.disalign.model
train_dataloader = _base_.disalign.train_dataloader
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.schedule
val_evaluator = test_evaluator = _base_.disalign.evaluator
load_from = (
    'https://download.openmmlab.com/mmsegmentation/v0.5/fcn/fcn_r50-d8_512x512_160k_ade20k/'
    'fcn_r50-d8_512x512_160k_ade20k_20200615_100713-4edbc3b4.pth'
)
