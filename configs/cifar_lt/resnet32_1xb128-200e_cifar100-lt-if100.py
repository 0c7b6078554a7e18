# CIFAR-100-LT of imbalance 100: 500 images of the first class, 5 of the last. The test set is the
# whole of CIFAR-100's.
_base_ = [
    '../_base_/resnet32_cifar_lt.py',
    'mmpretrain::_base_/datasets/cifar100_bs16.py',
    'mmpretrain::_base_/default_runtime.py',
]
datasets = __import__('mmdisalign.classification.datasets', fromlist=['datasets'])
class_prior = datasets.long_tailed_counts(100, imbalance=100, most=500)
model = dict(head=dict(num_classes=100))
train_dataloader = dict(
    batch_size=128,
    dataset=dict(type='mmdisalign.classification.CIFAR100LT', imbalance=100),
)
val_dataloader = test_dataloader = dict(batch_size=128)
val_evaluator = dict(
    _delete_=True, type='mmdisalign.classification.LongTailAccuracy', class_prior=class_prior
)
test_evaluator = dict(val_evaluator)
default_hooks = dict(checkpoint=dict(interval=20))
