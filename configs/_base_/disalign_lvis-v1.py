# Stage 2 on LVIS v1 as released: exp_scale 0.8, 9,000 iterations of 8 GPUs x 2 images.
_base_ = './disalign_det.py'
disalign = dict(
    model=dict(
        class_prior='lvis_v1',
        exp_scale=0.8,
        test_cfg=dict(rcnn=dict(score_thr=0.0001, max_per_img=300)),
    )
)
