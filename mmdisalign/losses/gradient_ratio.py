"""How much gradient of positives a class has had, against that of negatives."""

from __future__ import annotations

from typing import Union

import torch
from torch import Tensor, nn

from .. import processes


class GradientRatio(nn.Module):
    r"""Sums over training of the gradients of each class's scores, in size, and their ratio.

    .. math:: g_c = \sum |\text{gradient of positives}| / \sum |\text{gradient of negatives}|

    What an iteration adds counts from the next one on: a loss that is called once for each level
    sees the same ratio in all. Sums are over all processes, alike in each, and are in checkpoints.

    Args:
        num_classes: C.
        initial: The ratio before anything is known.

    Attributes:
        sums: Over the iterations that count, positive and negative, shape (2, C).
        added: By the last iteration, shape (2, C).
    """

    sums: Tensor
    added: Tensor

    def __init__(self, num_classes: int, initial: float) -> None:
        super().__init__()
        self.initial = initial
        for name in ('sums', 'added'):
            self.register_buffer(name, torch.zeros(2, num_classes, dtype=torch.float64))
        # What a checkpoint has added is of an iteration that has ended.
        self._ended = True

    def forward(self) -> Tensor:
        """The ratios, shape (C,)."""
        positive, negative = self.sums
        ratio = positive / (negative + 1e-10)
        return torch.where(self.sums.sum() > 0, ratio, torch.full_like(ratio, self.initial))

    @torch.compiler.disable
    def add(self, gradient: Tensor, target: Tensor) -> None:
        """Add gradients (N, C), by their targets in [0, 1], (N, C).

        All processes come here equally often, for the sum over them is taken here: a checkpoint has
        the buffers of one of them.
        """
        own = gradient.detach().abs().double()
        sums = torch.stack([(own * target).sum(0), (own * (1 - target)).sum(0)])
        self.added += processes.summed(sums)

    @torch.compiler.disable
    def begin(self) -> None:
        """Call before a loss is computed: if an iteration has ended, what it added counts."""
        if self._ended:
            self.sums += self.added
            self.added.zero_()
            self._ended = False

    @torch.compiler.disable
    def end_with(self, loss: Tensor) -> None:
        """The iteration ends when the gradient of a loss is computed."""
        if loss.requires_grad:
            loss.register_hook(self._end)

    def _end(self, gradient: Union[Tensor, None]) -> None:
        self._ended = True

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._ended = True
