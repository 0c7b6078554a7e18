# DisAlign on ADE20K with the paper's best model, DeepLabV3+ on ResNeSt-101.
_base_ = './ade20k/disalign_resnest_s101-d8_deeplabv3plus_8xb2-4k_ade20k-512x512.py'
