"""Gradient libra loss: the easy and the hard of a class are weighed by their gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .binary import BinaryClassLoss, Rows


class GradLibraLoss(BinaryClassLoss):
    r""":math:`w = g - \alpha \sin g`, :math:`g = |p - y|`, the norm of the gradient.

    Source: Liu et al., "Gradient Libra Loss", MICCAI 2022, equations 2 to 5. There is no released
    code, and the paper does not say whether w has a gradient: here it has, as in a focal loss.

    Args:
        num_classes: Number of classes C.
        alpha_pos: α of positives. Default: 0.8.
        alpha_neg: α of negatives. Default: 0.8.
        kwargs: Of :class:`BinaryClassLoss`.
    """

    sigmoid_only = True  # whose gradient it is

    def __init__(
        self, num_classes: int, alpha_pos: float = 0.8, alpha_neg: float = 0.8, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, **kwargs)
        self.alpha_pos, self.alpha_neg = alpha_pos, alpha_neg

    def class_weights(self, scores: Tensor, rows: Rows) -> Tensor:
        """w, with its gradient."""
        norm = (self.link.probability(scores) - rows.target).abs()
        alpha = self.alpha_pos * rows.target + self.alpha_neg * (1 - rows.target)
        return norm - alpha * torch.sin(norm)
