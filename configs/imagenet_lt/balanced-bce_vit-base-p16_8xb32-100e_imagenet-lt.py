# exp/finetune/ImageNet-LT/vit_base_224/args.txt of XuZhengzhuo/LiVT, 2048 images a step, whose log
# ends with 60.3; published: 60.9 (README). mmpretrain's mean and std. load_from: your MAE.
_base_ = [
    'mmpretrain::mae/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k.py',
    '../_base_/longtail_cls.py',
]
own, data = _base_.longtail.balanced_bce, dict(type='CustomDataset', data_root='data/imagenet_lt/')
class_prior = data['data_root'] + 'ImageNet_LT_train.txt'
loss = dict(own.loss, class_prior=class_prior)
model = dict(backbone=dict(init_cfg=None), head=dict(own.head, loss=loss))
data = dict(data, _delete_=True, pipeline=_base_.test_pipeline)
train = dict(data, ann_file='ImageNet_LT_train.txt', pipeline=_base_.train_pipeline)
train_dataloader = dict(batch_size=32, dataset=train)
val_dataloader = dict(dataset=dict(data, ann_file='ImageNet_LT_val.txt'))
test_dataloader = dict(dataset=dict(data, ann_file='ImageNet_LT_test.txt'))
val_evaluator = dict(
    _delete_=True, type='mmdisalign.classification.LongTailAccuracy', class_prior=class_prior
)
test_evaluator = val_evaluator
decay = dict(layer_decay_rate=0.75)
optim_wrapper = dict(accumulative_counts=8, optimizer=dict(lr=8e-3), paramwise_cfg=decay)
auto_scale_lr = dict(base_batch_size=256)
load_from = 'work_dirs/mae_vit-base-p16_imagenet-lt/epoch_800.pth'
