_base_ = './resnet32_1xb128-200e_cifar10-lt-if100.py'
model = dict(head=dict(type='mmdisalign.classification.CosineClsHead'))
