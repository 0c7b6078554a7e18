"""Balanced Softmax."""

from __future__ import annotations

from typing import Any, Optional, Union

import numpy as np
import torch
from torch import Tensor

from ..calibration import PriorLike, ZeroCount, filled_counts
from .base import PriorLoss
from .grw_cross_entropy import checked_normalizer, weighted_cross_entropy


class BalancedSoftmaxLoss(PriorLoss):
    r"""Cross-entropy of scores that are shifted by the logarithm of the class counts.

    .. math:: -\log \frac{n_y e^{z_y}}{\sum_i n_i e^{z_i}}

    The scores learn what the frequencies do not say already, so without the shift, at test time,
    they are those of balanced data. Source: Ren et al., "Balanced Meta-Softmax for Long-Tailed
    Visual Recognition", NeurIPS 2020, section 3.1; the logit-adjusted loss of Menon et al.,
    ICLR 2021, is the same.

    Args:
        class_prior: Class counts of the training data: anything that ``ClassPrior.build`` takes.
        background_count: How often a background class, which follows those of the prior in the
            scores, occurs, in the prior's unit. ``'left_out'``: its score is not shifted, and the
            counts are scaled to a geometric mean of 1, so that the shifts favour neither side.
            Default: None, there is no background.
        zero_count: How to treat classes that the prior never saw, see
            :func:`generalized_reweight`; with ``'ignore'`` they have no part in the sum, and must
            not be labels. Default: None, an error.
        normalizer: What the mean divides by, see :func:`weighted_cross_entropy`. Default:
            ``'elements'``.
        loss_name: Name in the log. Default: ``'loss_balanced_softmax'``.
        kwargs: Arguments of :class:`PriorLoss`.

    Attributes:
        log_counts: The shifts, shape (C,), or (C + 1,) with background.
    """

    log_counts: Tensor

    def __init__(
        self,
        class_prior: PriorLike,
        *,
        background_count: Union[float, str, None] = None,
        zero_count: ZeroCount = None,
        normalizer: str = 'elements',
        loss_name: str = 'loss_balanced_softmax',
        **kwargs: Any,
    ) -> None:
        super().__init__(class_prior, loss_name=loss_name, **kwargs)
        self.normalizer = checked_normalizer(normalizer)
        shift = _log_counts(filled_counts(self.class_prior, zero_count), background_count)
        # Not persistent: a checkpoint of another loss has no such key.
        self.register_buffer(
            'log_counts', torch.tensor(shift, dtype=torch.float32), persistent=False
        )

    def forward(
        self,
        pred: Tensor,
        label: Tensor,
        weight: Optional[Tensor] = None,
        avg_factor: Optional[float] = None,
        reduction_override: Optional[str] = None,
        ignore_index: Optional[int] = None,
    ) -> Tensor:
        """Compute the loss; arguments as of :func:`weighted_cross_entropy`."""
        self._check_scores(pred, len(self.log_counts))
        pred = pred.to(torch.promote_types(pred.dtype, torch.float32))
        shift = self.log_counts.to(pred.dtype).view(1, -1, *(1,) * (pred.dim() - 2))
        return self.loss_weight * weighted_cross_entropy(
            pred + shift,
            label,
            torch.ones_like(self.log_counts),
            weight=weight,
            avg_factor=avg_factor,
            normalizer=self.normalizer,
            **self._call_options(reduction_override, ignore_index),
        )

    def extra_repr(self) -> str:
        return f'{self.num_classes} classes, normalizer={self.normalizer}'


def _log_counts(counts: np.ndarray, background_count: Union[float, str, None]) -> np.ndarray:
    with np.errstate(divide='ignore'):
        logs = np.log(counts)
    if background_count is None:
        return logs
    if background_count == 'left_out':
        return np.append(logs - logs[np.isfinite(logs)].mean(), 0.0)
    if isinstance(background_count, str) or background_count <= 0:
        raise ValueError(
            "background_count must be None, 'left_out' or a positive number, got "
            f'{background_count!r}'
        )
    return np.append(logs, np.log(background_count))
