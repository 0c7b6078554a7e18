# vmf_icd.yaml of SiLangWHL/vMF-OP, but that takes two views of 256 images a step for 45 epochs, and
# has one of the two losses of overlap. Published: 54.5 (README).
_base_ = ['./resnext50-32x4d_8xb32-90e_imagenet-lt.py', '../_base_/longtail_cls.py']
own = _base_.longtail.vmf
loss = dict(own.loss, class_prior=_base_.class_prior)
model = dict(head=dict(own.head, loss=loss))
optim_wrapper = dict(paramwise_cfg=own.paramwise_cfg)
