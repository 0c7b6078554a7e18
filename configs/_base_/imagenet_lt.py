# ImageNet-LT (Liu et al. 2019): 1,000 classes of 5 to 1,280 images. The lists name the images of
# ImageNet-2012; data/imagenet_lt/train and data/imagenet_lt/val may be links to its folders.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs32_pil_resize.py'
dataset_type = 'CustomDataset'
data_root = 'data/imagenet_lt/'
class_prior = data_root + 'ImageNet_LT_train.txt'
# The colours vary as in the released code and that of Kang et al. (2020).
train_pipeline = [
    *_base_.train_pipeline[:-1],
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type=dataset_type,
        data_root=data_root,
        ann_file='ImageNet_LT_train.txt',
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type=dataset_type,
        data_root=data_root,
        ann_file='ImageNet_LT_val.txt',
        pipeline=_base_.test_pipeline,
    )
)
test_dataloader = dict(dataset=dict(val_dataloader['dataset'], ann_file='ImageNet_LT_test.txt'))
val_evaluator = dict(
    _delete_=True, type='mmdisalign.classification.LongTailAccuracy', class_prior=class_prior
)
test_evaluator = dict(val_evaluator)
