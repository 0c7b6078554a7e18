_base_ = './resnet32_1xb128-200e_cifar10-lt-if100.py'
# 25 images of each class are kept from training, for methods that choose or learn by them.
datasets = __import__('mmdisalign.classification.datasets', fromlist=['datasets'])
class_prior = datasets.long_tailed_counts(10, imbalance=100, most=4975)
kept = dict(type='mmdisalign.classification.CIFAR10LT', imbalance=100, hold_out=25)
train_dataloader = dict(dataset=kept)
pipeline = _base_.test_dataloader.dataset.pipeline
val_dataloader = dict(dataset=dict(kept, held_out=True, split='train', pipeline=pipeline))
val_evaluator = test_evaluator = dict(class_prior=class_prior)
