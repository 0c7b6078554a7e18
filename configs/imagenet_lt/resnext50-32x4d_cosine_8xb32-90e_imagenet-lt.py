_base_ = './resnext50-32x4d_8xb32-90e_imagenet-lt.py'
model = dict(head=dict(type='mmdisalign.classification.CosineClsHead'))
