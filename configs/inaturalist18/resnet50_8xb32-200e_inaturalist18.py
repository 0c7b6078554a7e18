_base_ = './resnet50_8xb32-90e_inaturalist18.py'
param_scheduler = [dict(type='CosineAnnealingLR', T_max=200, by_epoch=True)]
train_cfg = dict(max_epochs=200)
