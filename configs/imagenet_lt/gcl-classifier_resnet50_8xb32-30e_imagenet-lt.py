# Stage 2 of Keke921/GCLLoss (scripts of CIFAR and Places-LT), which goes on with the classifier;
# there, the loss is focal, and images are mixed. Published: 54.9 (README).
_base_ = ['./gcl_resnet50_8xb32-200e_imagenet-lt.py', '../_base_/decoupled_cls.py']
model = dict(_base_.decoupled.crt.model, head=dict(loss=dict(margin=0.1, scale=20.0)))
train_dataloader = _base_.decoupled.crt.train_dataloader
optim_wrapper = dict(optimizer=dict(lr=0.001))  # 0.002 for 512 images
param_scheduler = [dict(type='CosineAnnealingLR', T_max=30, by_epoch=True)]
train_cfg = dict(max_epochs=30)
load_from = 'work_dirs/gcl_resnet50_8xb32-200e_imagenet-lt/epoch_200.pth'
