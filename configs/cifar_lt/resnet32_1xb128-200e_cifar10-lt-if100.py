# CIFAR-10-LT of imbalance 100: 5,000 images of the first class, 50 of the last. The test set is the
# whole of CIFAR-10's.
_base_ = [
    '../_base_/resnet32_cifar_lt.py',
    'mmpretrain::_base_/datasets/cifar10_bs16.py',
    'mmpretrain::_base_/default_runtime.py',
]
datasets = __import__('mmdisalign.classification.datasets', fromlist=['datasets'])
class_prior = datasets.long_tailed_counts(10, imbalance=100, most=5000)
train_dataloader = dict(
    batch_size=128,
    dataset=dict(type='mmdisalign.classification.CIFAR10LT', imbalance=100),
)
val_dataloader = test_dataloader = dict(batch_size=128)
val_evaluator = dict(
    _delete_=True, type='mmdisalign.classification.LongTailAccuracy', class_prior=class_prior
)
test_evaluator = dict(val_evaluator)
default_hooks = dict(checkpoint=dict(interval=20))
