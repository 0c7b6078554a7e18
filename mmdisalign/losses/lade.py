"""LADE: Balanced Softmax, and scores that estimate a density ratio."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..calibration import PriorLike
from .balanced_softmax import BalancedSoftmaxLoss
from .base import Call

LOWEST = -1e9  # of what is ignored: finite, for a batch that is ignored whole


class LADELoss(BalancedSoftmaxLoss):
    r"""Balanced Softmax, and a regulariser of scores z that makes them those of balanced data.

    .. math:: -\sum_c \pi_c \Bigl( \frac{1}{N_c} \sum_{y = c} z_c - l_c - \lambda l_c^2 \Bigr),
        \quad l_c = \log \frac{1}{N} \sum_i \frac{e^{z_{ic}}}{C \pi_c}

    over a batch with N_c images of class c. Source: Hong et al., "Disentangling Label Distribution
    for Long-tailed Visual Recognition", CVPR 2021, section 3.3. For images (N, C), without weights
    of their own in the regulariser.

    Args:
        class_prior: Class counts of the training data: anything that ``ClassPrior.build`` takes.
        lambda_: λ. Default: 0.1.
        regularizer_weight: Of the regulariser. Default: 0.1.
        kwargs: Arguments of :class:`BalancedSoftmaxLoss`; the name is ``'loss_lade'``.
    """

    frequencies: Tensor

    def __init__(
        self,
        class_prior: PriorLike,
        lambda_: float = 0.1,
        regularizer_weight: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(class_prior, **{'loss_name': 'loss_lade', **kwargs})
        self.lambda_, self.regularizer_weight = lambda_, regularizer_weight
        own = torch.from_numpy(self.class_prior.frequencies)
        self.register_buffer('frequencies', own, persistent=False)

    def compute(self, pred: Tensor, call: Call) -> Tensor:
        """The mean of both; of the reduction ``'none'``, the regulariser is in each."""
        found = super().compute(pred, call)
        own, valid = call.label, torch.ones(len(pred), device=pred.device)
        if own.dim() < pred.dim():
            valid = (own != call.ignore_index).to(pred.dtype)
            own = F.one_hot(own.where(valid > 0, 0), self.num_classes)
        own, share = own * valid[:, None].to(pred.dtype), self.frequencies.to(pred.dtype)
        of_class = (own * pred).sum(0) / own.sum(0).clamp(min=1e-9)
        ratio = pred - (share.clamp(min=1e-9) * self.num_classes).log()
        ratio = ratio.masked_fill(valid[:, None] == 0, LOWEST)
        evidence = ratio.logsumexp(0) - valid.sum().clamp(min=1).log()
        bound = of_class - evidence - self.lambda_ * evidence**2
        return found - self.regularizer_weight * valid.any() * (share * bound).sum()
