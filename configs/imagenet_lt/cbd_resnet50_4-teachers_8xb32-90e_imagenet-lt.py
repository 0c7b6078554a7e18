# stage_two_cbd_ens of google-research/class_balanced_distillation. Published: 55.6 (Papers with
# Code).
_base_ = './cbd_resnet50_8xb32-90e_imagenet-lt.py'
stems = [
    f'cbd-teacher_resnet50{which}_8xb32-90e_imagenet-lt'
    for which in ('', '_seed2', '_jitter', '_jitter-seed2')
]
own = [(f'configs/imagenet_lt/{stem}.py', f'work_dirs/{stem}/epoch_90.pth') for stem in stems]
wide = dict(type='LinearNeck', in_channels=2048, out_channels=4 * 2048, norm_cfg=None)
model = dict(
    neck=[dict(type='GlobalAveragePooling'), dict(wide, act_cfg=dict(type='ReLU'))],
    head=dict(in_channels=4 * 2048),
    teachers=[dict(config=config, checkpoint=checkpoint) for config, checkpoint in own],
)
