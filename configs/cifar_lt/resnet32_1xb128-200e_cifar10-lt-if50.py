_base_ = './resnet32_1xb128-200e_cifar10-lt-if100.py'
datasets = __import__('mmdisalign.classification.datasets', fromlist=['datasets'])
class_prior = datasets.long_tailed_counts(10, imbalance=50, most=5000)
train_dataloader = dict(dataset=dict(imbalance=50))
val_evaluator = test_evaluator = dict(class_prior=class_prior)
