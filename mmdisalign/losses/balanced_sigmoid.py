"""Balanced Sigmoid: the per-class logistic kin of Balanced Softmax."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..calibration import PriorLike, ZeroCount, filled_counts
from .base import Call, PriorLoss


class BalancedSigmoidLoss(PriorLoss):
    r"""Binary cross-entropy per class, of scores shifted by the log-odds of the class.

    .. math:: -\sum_j \log \mathrm{sigmoid}\bigl(t_j (z_j + \log \tfrac{n_j}{n - n_j})\bigr),
        \quad t_y = 1,\ t_{j \ne y} = -1

    Each score, without the shift, is then that of a class which is there as often as not. Source:
    "Balanced Activation for Long-tailed Visual Recognition" (Ren et al., 2020), the second of the
    two papers of Balanced Meta-Softmax's authors.

    The label C, after the last class, is the background of a detector: no class at all. Labels may
    also be targets t of all classes, shape (N, C), in [0, 1], as mixed images have them. With
    τ = 1 it is LiVT's Bal-BCE (Xu et al., "Learning Imbalanced Data with Vision Transformers",
    CVPR 2023, section 3.3).

    Args:
        class_prior: Class counts of the training data: anything that ``ClassPrior.build`` takes.
        background_count: How often no class is there, in the prior's unit; it is part of n.
            Default: 0.
        tau: Factor of the shift. Default: 1.
        label_smooth_val: s: targets are (1 - s) t + s / C. Default: 0.
        zero_count: How to treat classes that the prior never saw, see
            :func:`generalized_reweight`; with ``'ignore'`` they have no loss, so their scores stay
            where they began. Default: None, an error.
        loss_name: Name in the log. Default: ``'loss_balanced_sigmoid'``.
        kwargs: Arguments of :class:`PriorLoss`.

    Raises:
        ValueError: If a class makes up all samples, so that its log-odds are infinite.
    """

    log_odds: Tensor

    def __init__(
        self,
        class_prior: PriorLike,
        *,
        background_count: float = 0.0,
        tau: float = 1.0,
        label_smooth_val: float = 0.0,
        zero_count: ZeroCount = None,
        loss_name: str = 'loss_balanced_sigmoid',
        **kwargs: Any,
    ) -> None:
        super().__init__(class_prior, loss_name=loss_name, **kwargs)
        counts = filled_counts(self.class_prior, zero_count)
        others = counts.sum() + background_count - counts
        if (others <= 0).any():
            name = self.class_prior.name_of(int(np.argmin(others)))
            raise ValueError(f'every sample is {name}: balanced sigmoid needs samples of others')
        seen = torch.tensor(counts > 0)
        with np.errstate(divide='ignore'):
            log_odds = tau * torch.tensor(np.log(counts / others), dtype=torch.float32)
        # Not persistent: a checkpoint of another loss has no such keys.
        self.register_buffer('log_odds', log_odds.where(seen, torch.tensor(0.0)), persistent=False)
        self.register_buffer('seen', seen, persistent=False)
        self.label_smooth_val = label_smooth_val

    def probabilities(self, pred: Tensor) -> Tensor:
        """Probabilities (N, C + 1) of scores (N, C), the last of a background 0."""
        return F.pad(pred.sigmoid(), (0, 1))

    def compute(self, pred: Tensor, call: Call) -> Tensor:
        """The sum over the classes of each element, reduced; its label C is the background."""
        self._check_scores(pred)
        target, valid = self._targets(pred, call)
        loss = F.binary_cross_entropy_with_logits(
            pred + self.log_odds.to(pred.dtype), target, reduction='none'
        )
        return call.reduced((loss * self.seen).sum(1) * call.weights(valid, pred.dtype))

    def _targets(self, pred: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        """Of all classes, (N, C), and which elements are not ignored, (N,)."""
        own, smooth = call.label, self.label_smooth_val
        if own.dim() == pred.dim():
            valid = torch.ones_like(own[:, 0], dtype=torch.bool)
        else:
            valid = own != call.ignore_index
            own = F.one_hot(own.where(valid, self.num_classes), self.num_classes + 1)[:, :-1]
        return (1 - smooth) * own.to(pred.dtype) + smooth / self.num_classes, valid

    def extra_repr(self) -> str:
        return f'{self.num_classes} classes'
