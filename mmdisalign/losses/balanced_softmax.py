"""Balanced Softmax."""

from __future__ import annotations

from typing import Any, Union

import numpy as np
import torch
from torch import Tensor

from ..calibration import PriorLike, ZeroCount, filled_counts
from .adjusted import AdjustedCrossEntropyLoss, along_classes


class BalancedSoftmaxLoss(AdjustedCrossEntropyLoss):
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
        kwargs: Arguments of :class:`AdjustedCrossEntropyLoss`; the name is
            ``'loss_balanced_softmax'``.

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
        **kwargs: Any,
    ) -> None:
        super().__init__(
            class_prior,
            background=background_count is not None,
            **{'loss_name': 'loss_balanced_softmax', **kwargs},
        )
        shift = _log_counts(filled_counts(self.class_prior, zero_count), background_count)
        self.register_buffer(
            'log_counts', torch.tensor(shift, dtype=torch.float32), persistent=False
        )

    def adjusted(self, pred: Tensor, label: Tensor) -> Tensor:
        """The scores, shifted."""
        return pred + along_classes(self.log_counts, pred)


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
