# Places-LT (Liu et al. 2019): 365 classes of 5 to 4,980 images. The lists name the images of
# Places365-Standard, small (256x256), as data_256/a/airfield/*.jpg.
_base_ = './imagenet_lt.py'
data_root = 'data/places_lt/'
class_prior = data_root + 'Places_LT_train.txt'
data_preprocessor = dict(num_classes=365)
train_dataloader = dict(dataset=dict(data_root=data_root, ann_file='Places_LT_train.txt'))
val_dataloader = dict(dataset=dict(data_root=data_root, ann_file='Places_LT_val.txt'))
test_dataloader = dict(dataset=dict(data_root=data_root, ann_file='Places_LT_test.txt'))
val_evaluator = test_evaluator = dict(class_prior=class_prior)
