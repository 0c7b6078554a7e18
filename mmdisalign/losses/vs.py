"""Vector-scaling loss: scores are scaled and shifted by the class counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..calibration import PriorLike, ZeroCount, filled_counts
from .adjusted import AdjustedCrossEntropyLoss, along_classes


class VSLoss(AdjustedCrossEntropyLoss):
    r"""Cross-entropy of :math:`(n_c / n_{max})^\gamma z_c + \tau \log \pi_c`.

    Source: Kini et al., "Label-Imbalanced and Group-Sensitive Classification under
    Overparameterization", NeurIPS 2021. γ = 0 and τ = 1 is Balanced Softmax. At test, the scores
    are as they are.

    Args:
        class_prior: Class counts of the training data: anything that ``ClassPrior.build`` takes.
        gamma: γ. Default: 0.15, as released for CIFAR-10-LT.
        tau: τ. Default: 1.25, likewise.
        zero_count: How to treat classes that the prior never saw. Default: None, an error.
        kwargs: Arguments of :class:`AdjustedCrossEntropyLoss`; the name is ``'loss_vs'``.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        class_prior: PriorLike,
        gamma: float = 0.15,
        tau: float = 1.25,
        *,
        zero_count: ZeroCount = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(class_prior, **{'loss_name': 'loss_vs', **kwargs})
        counts = filled_counts(self.class_prior, zero_count)
        with np.errstate(divide='ignore'):  # of what is ignored
            shift = torch.from_numpy(tau * np.log(counts / counts.sum()))
        scale = torch.from_numpy((counts / counts.max()) ** gamma)
        self.register_buffer('scale', scale, persistent=False)
        self.register_buffer('shift', shift, persistent=False)

    def adjusted(self, pred: Tensor, label: Tensor) -> Tensor:
        """The scores, scaled and shifted."""
        return pred * along_classes(self.scale, pred) + along_classes(self.shift, pred)
