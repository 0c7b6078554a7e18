"""What else than DisAlign's function may be made of class scores, and folds into a classifier."""

from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Classifier = tuple[Tensor, Optional[Tensor]]  # weight (C, F), or of a kernel, and bias (C,)


class AffineMap(nn.Module):
    """Scales and shifts the scores of each class by numbers of its own, see :meth:`affine`.

    Attributes:
        num_classes: Number of classes C that are scored.
    """

    num_classes: int

    def affine(self) -> tuple[Tensor, Tensor]:
        """What a score is multiplied by, and what is added to it, both (C,)."""
        raise NotImplementedError

    def forward(self, logits: Tensor, features: Optional[Tensor] = None) -> Tensor:
        """Scores z, shape (N, C, *), to as many; the features have no say."""
        shape = (1, -1) + (1,) * (logits.dim() - 2)
        scale, shift = (values.view(shape) for values in self.affine())
        return logits * scale + shift

    def folded(self, weight: Tensor, bias: Optional[Tensor]) -> Classifier:
        """The classifier whose scores are these, of the one that made z.

        Args:
            weight: Shape (A, F), or that of a kernel, of C classes and A - C scores that stay.
            bias: Shape (A,), or None.
        """
        rest = len(weight) - self.num_classes
        scale, shift = self.affine()
        scale, shift = F.pad(scale, (0, rest), value=1.0), F.pad(shift, (0, rest))
        weight = weight * scale.view(-1, *(1,) * (weight.dim() - 1))
        if bias is None:
            return weight, shift if shift.any() else None
        return weight, bias * scale + shift


class AffineScores(AffineMap):
    r"""A magnitude and a margin of each class.

    .. math:: \hat z = (1 + \alpha)\, z + \beta

    DisAlign's calibration where the confidence σ is 1; logit adjustment and NorCal are a β.

    Args:
        num_classes: Number of classes C that are scored.

    Attributes:
        magnitude: α, shape (C,), at first 0.
        margin: β, shape (C,), at first 0.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.magnitude = nn.Parameter(torch.zeros(num_classes))
        self.margin = nn.Parameter(torch.zeros(num_classes))

    @classmethod
    def shifted(cls, margin: Tensor) -> AffineScores:
        """With a given β, shape (C,)."""
        scores = cls(len(margin))
        scores.margin.data.copy_(margin)
        return scores

    def affine(self) -> tuple[Tensor, Tensor]:
        """1 + α and β."""
        return 1 + self.magnitude, self.margin


class MarginScores(AffineScores):
    r"""MARC: scores whose margins are in units of the norms of a classifier's weights.

    .. math:: \hat z_c = \omega_c z_c + \beta_c \lVert w_c \rVert

    Source: Wang et al., "Margin Calibration for Long-Tailed Visual Recognition", ACML 2022, section
    3: the margin of class c is its score divided by the norm of its weights.

    Args:
        norms: Shape (C,).
    """

    def __init__(self, norms: Tensor) -> None:
        super().__init__(len(norms))
        self.register_buffer('norms', norms)

    def affine(self) -> tuple[Tensor, Tensor]:
        """ω and what is added, both (C,)."""
        return 1 + self.magnitude, self.margin * self.norms


class LinearScores(nn.Module):
    r"""Class scores of another linear classifier: :math:`\hat z = W x + b`.

    Args:
        num_classes: Number of scores, that of a background included.
        in_channels: Number of channels F of the features x.

    Attributes:
        weight: W, shape (C, F), at first 0.
        bias: b, shape (C,), at first 0.
    """

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.weight = nn.Parameter(torch.zeros(num_classes, in_channels))
        self.bias = nn.Parameter(torch.zeros(num_classes))

    @classmethod
    def of(cls, weight: Tensor, bias: Optional[Tensor] = None) -> LinearScores:
        """With a given W, and b or 0."""
        scores = cls(*weight.shape)
        scores.weight.data.copy_(weight)
        if bias is not None:
            scores.bias.data.copy_(bias)
        return scores

    def forward(self, logits: Tensor, features: Tensor) -> Tensor:
        """Scores (N, C, *) of features (N, F, *); those of the old classifier have no say."""
        return F.linear(features.movedim(1, -1), self.weight, self.bias).movedim(-1, 1)

    def folded(self, weight: Tensor, bias: Optional[Tensor]) -> Classifier:
        """The classifier, shaped as the one in whose place it comes.

        Raises:
            ValueError: If that sees more than the features of its position.
        """
        if weight.numel() != self.weight.numel():
            raise ValueError(
                f'a classifier with weights {tuple(weight.shape)} cannot become one of '
                f'{self.weight.shape[1]} features of a position'
            )
        return self.weight.detach().view_as(weight), self.bias.detach()
