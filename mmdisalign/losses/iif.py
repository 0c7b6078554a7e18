"""Cross-entropy of scores that are multiplied by their class's inverse frequency."""

from __future__ import annotations

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from ..calibration import PriorLike, ZeroCount, inverse_frequency
from .adjusted import AdjustedCrossEntropyLoss, along_classes


class IIFLoss(AdjustedCrossEntropyLoss):
    """Inverse image frequency: see :func:`inverse_frequency`. Scores are multiplied at test, too.

    Args:
        class_prior: Counts n of the training data, in images or in instances (released with the
            name ``_obj``): anything that ``ClassPrior.build`` takes.
        variant: Of f. Default: ``'raw'``.
        num_samples: N, in the unit of the counts. Default: None, their sum.
        background: Whether there is a score of a background, the last, with factor 1.
            Default: False.
        norm: The factors are divided by their norm of this order. Default: None, they are not.
        zero_count: How to treat classes that the prior never saw. Default: None, an error.
        kwargs: Arguments of :class:`AdjustedCrossEntropyLoss`; the name is ``'loss_iif'``.

    Attributes:
        factors: Shape (C,), or (C + 1,) with a background.
    """

    factors: Tensor

    def __init__(
        self,
        class_prior: PriorLike,
        variant: str = 'raw',
        num_samples: Optional[float] = None,
        *,
        background: bool = False,
        norm: Optional[float] = None,
        zero_count: ZeroCount = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(class_prior, background=background, **{'loss_name': 'loss_iif', **kwargs})
        found = inverse_frequency(
            self.class_prior, variant, number=num_samples, zero_count=zero_count
        )
        found = found if norm is None else found / found.norm(norm)
        found = F.pad(found, (0, int(background)), value=1.0)
        self.register_buffer('factors', found, persistent=False)

    def adjusted(self, pred: Tensor, label: Optional[Tensor] = None) -> Tensor:
        """The scores, multiplied."""
        return pred * along_classes(self.factors, pred)

    def probabilities(self, pred: Tensor) -> Tensor:
        """Probabilities of scores, both (N, C or C + 1): what is to be used at test."""
        return self.adjusted(pred.to(torch.promote_types(pred.dtype, torch.float32))).softmax(dim=1)
