"""Cosine classifiers: scores from the angle between a feature and a class weight."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CosineLinear(nn.Linear):
    r"""Linear classifier on normalised features and weights.

    .. math:: z_c = s \, \frac{w_c \cdot x}{\lVert w_c \rVert \lVert x \rVert}

    Class frequency shows in the norms of the weights (Kang et al., ICLR 2020), which this leaves
    out; it is the classifier of the cosine variants in Zhang et al., CVPR 2021.

    Args:
        in_features: Number of channels F.
        out_features: Number of classes C.
        scale: Where the factor s starts. Default: 20.
        learned: Whether it is learned. Default: True.
    """

    def __init__(
        self, in_features: int, out_features: int, scale: float = 20.0, learned: bool = True
    ) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.initial = float(scale)
        if learned:
            self.scale = nn.Parameter(torch.tensor(self.initial))
        else:  # of the same name in checkpoints
            self.register_buffer('scale', torch.tensor(self.initial))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Begin anew, with weights of length 1, as in the release of LDAM; s included."""
        super().reset_parameters()
        self.weight.copy_(F.normalize(self.weight))
        if hasattr(self, 'scale'):  # not yet, when PyTorch's constructor comes here
            self.scale.fill_(self.initial)

    @torch.no_grad()
    def multiply(self, factor: float) -> None:
        """Multiply s, and where it starts."""
        self.initial *= factor
        self.scale.mul_(factor)

    def forward(self, features: Tensor) -> Tensor:
        """Scores (N, C) of features (N, F)."""
        return self.scale * F.linear(F.normalize(features), F.normalize(self.weight))


class CosineConv2d(nn.Conv2d):
    """:class:`CosineLinear` at each position of a map: a 1x1 convolution.

    Args:
        in_channels: Number of channels F.
        out_channels: Number of classes C.
        scale: Where the learnable factor starts. Default: 20.
    """

    def __init__(self, in_channels: int, out_channels: int, scale: float = 20.0) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1, bias=False)
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def forward(self, features: Tensor) -> Tensor:
        """Scores (N, C, H, W) of features (N, F, H, W)."""
        return self.scale * F.conv2d(F.normalize(features), F.normalize(self.weight))
