"""The small ResNets of long-tail experiments, which mmpretrain lacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Optional, Union

from mmcv.cnn import ConvModule
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.models.backbones.resnet import BasicBlock, ResNet
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import pad

WIDTHS = (16, 32, 64)


@MODELS.register_module()
class CIFARResNet(BaseBackbone):
    """ResNet for images of 32 x 32: three stages of 16, 32 and 64 channels.

    He et al. 2016, "Deep Residual Learning for Image Recognition" (arXiv:1512.03385), section 4.2,
    with shortcuts of option A. mmpretrain's ``ResNet_CIFAR`` is another network, 64 to 512 channels
    wide.

    Args:
        depth: Number of convolutions and the classifier, 6n + 2: 20, 32, 44, 56, 110, ...
            Default: 32.
        in_channels: Channels of the image. Default: 3.
        norm_cfg: Normalisation layers. Default: ``dict(type='BN')``.
        init_cfg: Initialisation. Default: None, He et al.'s for convolutions.

    Raises:
        ValueError: If there is no network of that depth.
    """

    def __init__(
        self,
        depth: int = 32,
        in_channels: int = 3,
        norm_cfg: Optional[dict] = None,
        init_cfg: Union[dict, Sequence[dict], None] = None,
    ) -> None:
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f'depth must be 6n + 2, such as 20, 32, 44, 56 or 110, got {depth}')
        super().__init__(init_cfg or dict(type='Kaiming', layer='Conv2d'))
        norm_cfg = norm_cfg or dict(type='BN')
        self.stem = ConvModule(in_channels, WIDTHS[0], 3, padding=1, norm_cfg=norm_cfg)
        blocks = []
        for width_in, width in zip((WIDTHS[0], *WIDTHS), WIDTHS):
            blocks.append(_block(width_in, width, norm_cfg))
            blocks += [_block(width, width, norm_cfg) for _ in range((depth - 2) // 6 - 1)]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Compute the feature map.

        Args:
            x: Images, shape (N, in_channels, H, W).

        Returns:
            A tuple of the last feature map, shape (N, 64, H / 4, W / 4).
        """
        return (self.blocks(self.stem(x)),)


@MODELS.register_module()
class ResNet10(ResNet):
    """mmpretrain's ``ResNet`` of one basic block a stage, as Liu et al. have it (CVPR 2019).

    The network of ImageNet-LT's first experiments, and of Breadcrumb and CDB there.

    Args:
        kwargs: Arguments of ``ResNet`` but for the depth.
    """

    arch_settings: ClassVar[dict] = {10: (BasicBlock, (1, 1, 1, 1))}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(10, **kwargs)


class PaddedShortcut(nn.Module):
    """Shortcut of option A: every second pixel, and channels of zeros; without parameters.

    Args:
        new_channels: How many channels of zeros to append.
    """

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.new_channels = new_channels

    def forward(self, x: Tensor) -> Tensor:
        """From (N, C, H, W) to (N, C + new_channels, H / 2, W / 2)."""
        return pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.new_channels))


def _block(in_channels: int, channels: int, norm_cfg: dict) -> BasicBlock:
    if in_channels == channels:
        return BasicBlock(channels, channels, norm_cfg=norm_cfg)
    shortcut = PaddedShortcut(channels - in_channels)
    return BasicBlock(in_channels, channels, stride=2, downsample=shortcut, norm_cfg=norm_cfg)
