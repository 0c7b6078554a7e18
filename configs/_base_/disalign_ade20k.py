# Stage 2 on ADE20K as released: exp_scale 0.2, 4,000 iterations of 8 GPUs x 2 images.
_base_ = './disalign_seg.py'
disalign = dict(
    model=dict(class_prior='ade20k', exp_scale=0.2),
    evaluator=dict(class_prior='ade20k'),
    train_dataloader=dict(batch_size=2),
)
