# causal_norm.yaml of KaihuaTang/Long-Tailed-Recognition.pytorch (0.2 for 512 images), its rule for
# μ, and α 3. Published: 51.8 (table in its classification/README.md).
_base_ = ['./resnext50-32x4d_8xb32-90e_imagenet-lt.py', '../_base_/longtail_cls.py']
model = dict(head=_base_.longtail.tde.head)
custom_hooks = [dict(type='mmdisalign.classification.CausalMomentumHook')]
