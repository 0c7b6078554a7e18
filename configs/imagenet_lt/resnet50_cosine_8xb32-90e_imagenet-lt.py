_base_ = './resnet50_8xb32-90e_imagenet-lt.py'
model = dict(head=dict(type='mmdisalign.classification.CosineClsHead'))
