# feat_uniform_with_CDBloss.yaml of hitachi-rd-cv/CDB-loss (0.2 for 512 images), but that is of
# ResNet-10. Published for ResNet-10: 38.5 (Papers with Code).
_base_ = ['./resnext50-32x4d_8xb32-90e_imagenet-lt.py', '../_base_/longtail_cls.py']
own = _base_.longtail.cdb_w
loss = dict(own.loss, class_prior=_base_.class_prior, tau=1.0, normalizer='class_weight')
model = dict(head=dict(own.head, loss=loss))
custom_hooks, train_cfg = own.custom_hooks, own.train_cfg
optim_wrapper = dict(optimizer=dict(weight_decay=2e-4))
