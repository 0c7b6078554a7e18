"""Equalization loss v2: classes whose positives are outweighed get them back."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .binary import BinaryClassLoss, Rows, starting_low
from .gradient_ratio import GradientRatio

BALANCED = 100.0  # a ratio with which no term is weighed


class EQLv2Loss(BinaryClassLoss):
    r"""Positives :math:`1 + \alpha (1 - f(g_c))`, negatives :math:`f(g_c)`.

    .. math:: f(g) = \mathrm{sigmoid}(\gamma (g - \mu))

    g is the :class:`GradientRatio` of the class. The background has a score of its own, whose
    terms are not weighed, and a class has probability :math:`p_c (1 - p_{background})`. Source: Tan
    et al., "Equalization Loss v2", CVPR 2021, equations 4 to 8.

    Args:
        num_classes: Number of classes C.
        gamma: γ. Default: 12.
        mu: μ. Default: 0.8.
        alpha: α. Default: 4.
        kwargs: Of :class:`BinaryClassLoss`, see :func:`starting_low`.
    """

    sigmoid_only = True  # whose gradient it is

    def __init__(
        self, num_classes: int, gamma: float = 12, mu: float = 0.8, alpha: float = 4, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, background=True, **starting_low(kwargs))
        self.gamma, self.mu, self.alpha = gamma, mu, alpha
        self.gradient_ratio = GradientRatio(num_classes, BALANCED)

    def weights_of(self, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """Of positives and of negatives, as of a ratio, all (C,)."""
        negative = torch.sigmoid(self.gamma * (ratio - self.mu))
        return 1 + self.alpha * (1 - negative), negative

    def class_weights(self, scores: Tensor, rows: Rows) -> Tensor:
        """Of positives and negatives; the last, of the background, are 1."""
        both = self.weights_of(self.gradient_ratio().to(scores.dtype))
        positive, negative = (F.pad(own, (0, 1), value=1.0) for own in both)
        return positive * rows.target + negative * (1 - rows.target)

    def element_losses(self, scores: Tensor, rows: Rows) -> Tensor:
        """The loss of each score, (N, C + 1), whose gradient then counts."""
        counts = self.counts(scores)
        if counts:
            self.gradient_ratio.begin()
        weights = self.class_weights(scores, rows)
        losses = weights * self.link.losses(scores, rows.target)
        if counts:
            gradient = weights * (scores.sigmoid() - rows.target) * rows.counted[:, None]
            self.gradient_ratio.add(gradient[:, :-1], rows.target[:, :-1])
            self.gradient_ratio.end_with(losses)
        return losses

    def probabilities(self, pred: Tensor) -> Tensor:
        """Probabilities (N, C + 1) of scores, the background's last."""
        found = super().probabilities(pred)
        return torch.cat([found[:, :-1] * (1 - found[:, -1:]), found[:, -1:]], dim=1)
