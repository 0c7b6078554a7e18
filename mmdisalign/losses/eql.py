"""Equalization loss: the rare are not pushed down by every object of another class."""

from __future__ import annotations

from typing import Any, Optional

from torch import Tensor

from ..calibration import ClassPrior, PriorLike
from .binary import BinaryClassLoss, Rows, starting_low
from .tail import tail_classes


class EQLLoss(BinaryClassLoss):
    r""":math:`w = 1 - E\, T_c (1 - y_c)`: E is 1 of objects, T of rare classes.

    Source: Tan et al., "Equalization Loss for Long-Tailed Object Recognition", CVPR 2020,
    equations 2 to 4. Backgrounds push all classes down.

    Args:
        class_prior: Image counts of the training data: anything that ``ClassPrior.build`` takes.
        lambda_: Share of the images below which a class is rare, strictly. Default: 1.76e-3, which
            was released for LVIS v0.5; for v1 it was 1.1e-3.
        num_images: Of the training data, see :func:`tail_classes`.
        kwargs: Of :class:`BinaryClassLoss`, see :func:`starting_low`; with ``link='gumbel'`` it is
            a form of GOL.
    """

    tail: Tensor

    def __init__(
        self,
        class_prior: PriorLike,
        lambda_: float = 1.76e-3,
        num_images: Optional[float] = None,
        **kwargs: Any,
    ) -> None:
        prior = ClassPrior.build(class_prior)
        super().__init__(len(prior), **starting_low(kwargs))
        # Not persistent: a checkpoint of another loss has no such key.
        self.register_buffer('tail', tail_classes(prior, lambda_, num_images), persistent=False)

    def left_out(self, scores: Tensor, rows: Rows) -> Tensor:
        """Of which elements (N,) or (N, C) negatives of rare classes have no loss."""
        return rows.is_object[:, None]

    def class_weights(self, scores: Tensor, rows: Rows) -> Tensor:
        """1, but 0 of what is left out."""
        return 1 - (self.left_out(scores, rows) & self.tail) * (1 - rows.target)
