_base_ = [
    'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-160k_ade20k-512x512.py',
    '../_base_/disalign_ade20k.py',
]
model = _base_.disalign.model
train_dataloader = _base_.disalign.train_dataloader
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.schedule
val_evaluator = test_evaluator = _base_.disalign.evaluator
load_from = (
    'https://download.openmmlab.com/mmsegmentation/v0.5/deeplabv3plus/deeplabv3plus_r50-d8_512x512_160k_ade20k/'
    'deeplabv3plus_r50-d8_512x512_160k_ade20k_20200615_124504-6135c7e0.pth'
)
