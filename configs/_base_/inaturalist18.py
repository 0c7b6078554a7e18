# iNaturalist 2018: 8,142 classes of 2 to 1,000 images; its validation set is what is reported.
_base_ = './imagenet_lt.py'
data_root = 'data/inaturalist18/'
class_prior = data_root + 'iNaturalist18_train.txt'
# As Kang et al. (2020): the statistics of iNaturalist, and no change of colours.
data_preprocessor = dict(num_classes=8142, mean=[118.83, 120.105, 96.9], std=[49.725, 49.47, 48.96])
train_pipeline = [step for step in _base_.train_pipeline if step['type'] != 'ColorJitter']
train_dataloader = dict(
    dataset=dict(data_root=data_root, ann_file='iNaturalist18_train.txt', pipeline=train_pipeline)
)
val_dataloader = dict(dataset=dict(data_root=data_root, ann_file='iNaturalist18_val.txt'))
test_dataloader = dict(dataset=dict(data_root=data_root, ann_file='iNaturalist18_val.txt'))
val_evaluator = test_evaluator = dict(class_prior=class_prior)
