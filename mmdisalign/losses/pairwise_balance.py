"""Pairwise class balance: objects are also told what their class is mistaken for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import processes


class PairwiseBalance(nn.Module):
    r"""The moving confusion matrix of the classes, and soft targets from it.

    Row y is what objects of class y are taken for: :math:`M_y \leftarrow m M_y + (1 - m) \bar p_y`
    with the mean over the batch, of all processes, of their scores p. The soft target of y is
    column y: the classes that are taken for y. Source: He et al., "Relieving Long-tailed Instance
    Segmentation via Pairwise Class Balance", CVPR 2022, section 3.

    Args:
        num_classes: C.
        alpha: α, the share of the soft targets.
        momentum: m. Default: 0.99.
        begin: The epoch, or what else :attr:`progress` counts, from which they have a share; and
            not before each class has been seen. Default: 17, as released, of 24.
        iteration: Of a head that refines its output: which of its iterations, or stages, this is.
            Default: 0.
        num_iterations: How many it has: the share rises from 0 to α with them. Default: 1, it is α.
        scaled: Whether rows, and columns as targets, are scaled to the sum 1: p is a softmax.
            Default: True.

    Attributes:
        confusion: M, shape (C, C).
        instances: Objects of each class so far, shape (C,).
        progress: The epoch; who trains sets it.
    """

    confusion: Tensor
    instances: Tensor

    def __init__(
        self,
        num_classes: int,
        alpha: float,
        *,
        momentum: float = 0.99,
        begin: int = 17,
        iteration: int = 0,
        num_iterations: int = 1,
        scaled: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= iteration < num_iterations:
            raise ValueError(f'iteration is in 0 to {num_iterations - 1}, got {iteration}')
        self.alpha = alpha * (iteration / (num_iterations - 1) if num_iterations > 1 else 1.0)
        self.momentum, self.begin, self.scaled = momentum, begin, scaled
        self.progress = 0
        self.register_buffer('confusion', torch.zeros(num_classes, num_classes))
        self.register_buffer('instances', torch.zeros(num_classes))

    @torch.no_grad()
    def update(self, probabilities: Tensor, target: Tensor) -> None:
        """Move the rows of classes that are in the batch of one of the processes.

        Args:
            probabilities: p of each element, shape (N, C).
            target: One-hot of objects, 0 of what does not count, shape (N, C).
        """
        own = target.to(self.confusion.dtype)
        sums = torch.cat([own.T @ probabilities.to(own.dtype), own.sum(dim=0)[:, None]], dim=1)
        rows, number = processes.summed(sums).split([len(self.confusion), 1], dim=1)
        moved = self.momentum * self.confusion + (1 - self.momentum) * rows / number.clamp(min=1)
        if self.scaled:
            moved = moved / moved.sum(dim=1, keepdim=True).clamp(min=1e-12)
        self.confusion.copy_(torch.where(number > 0, moved, self.confusion))
        self.instances += number[:, 0]

    def share(self) -> Tensor:
        """The share of the soft targets now, a number: α, or 0 before they begin."""
        all_seen = (self.instances > 0).all().to(self.confusion.dtype)
        return self.alpha * all_seen * (self.progress >= self.begin)

    def targets(self, target: Tensor) -> Tensor:
        """Soft targets (N, C) of one-hot targets (N, C); 0 of what is no object."""
        matrix = self.confusion
        if self.scaled:
            matrix = matrix / matrix.sum(dim=0, keepdim=True).clamp(min=1e-12)
        return target @ matrix.T.to(target.dtype)
