# In one stage, as hyperconnect/LADE has it (config balanced_softmax.yaml); Ren et al. (2020) have
# ResNet-10 and 0.2 for 512 images. No figure of this network was found.
_base_ = ['./resnext50-32x4d_8xb32-90e_imagenet-lt.py', '../_base_/longtail_cls.py']
own = _base_.longtail.balanced_softmax
model = dict(head=dict(own.head, loss=dict(own.loss, class_prior=_base_.class_prior)))
optim_wrapper = dict(optimizer=dict(lr=0.05))
