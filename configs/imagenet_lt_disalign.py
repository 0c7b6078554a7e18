# DisAlign on ImageNet-LT with the network that was released, ResNeXt-50-32x4d.
_base_ = './imagenet_lt/disalign_resnext50-32x4d_8xb32-10e_imagenet-lt.py'
