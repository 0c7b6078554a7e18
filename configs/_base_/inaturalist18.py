# iNaturalist 2018: 8,142 classes of 2 to 1,000 images; its validation set is what is reported.
_base_ = './imagenet_lt.py'
data_root = 'data/inaturalist18/'
class_prior = data_root + 'iNaturalist18_train.txt'
data_preprocessor = dict(num_classes=8142)
train_dataloader = dict(dataset=dict(data_root=data_root, ann_file='iNaturalist18_train.txt'))
val_dataloader = dict(dataset=dict(data_root=data_root, ann_file='iNaturalist18_val.txt'))
test_dataloader = dict(dataset=dict(data_root=data_root, ann_file='iNaturalist18_val.txt'))
val_evaluator = test_evaluator = dict(class_prior=class_prior)
