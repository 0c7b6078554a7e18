"""Features of a class from earlier epochs, moved to where the class is now."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor


class BackTrackedFeatures:
    r"""As many features of each class as an average class has images, of its last epochs.

    With :math:`\bar n = \lceil n / C \rceil` images of an average class, a class of :math:`n_c`
    keeps those of its last :math:`\lceil \bar n / n_c \rceil` epochs. A feature x of an epoch whose
    features of the class have the mean :math:`\mu` becomes

    .. math:: x - \mu + \mu_{newest}

    newest epochs first, cut to :math:`\bar n`. Source: EMANATE in Liu et al., "Breadcrumbs:
    Adversarial Class-Balanced Sampling for Long-Tailed Recognition", ECCV 2022, and its release.

    Args:
        counts: Number of training images of each class, C of them; a class without any has no
            features.

    Attributes:
        per_class: :math:`\bar n`.
        epochs: Of how many epochs the features of each class are kept.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self.per_class = math.ceil(sum(counts) / len(counts))
        self.epochs = [math.ceil(self.per_class / count) if count else 0 for count in counts]
        # Newest last: what is kept of an epoch (n, F), and the mean of all of it (F,).
        self._kept: list[deque[tuple[Tensor, Tensor]]] = [deque(maxlen=n) for n in self.epochs]

    @property
    def is_full(self) -> bool:
        """Whether each class has its epochs."""
        return all(len(kept) == epochs for kept, epochs in zip(self._kept, self.epochs))

    def add(self, features: Tensor, label: Tensor) -> None:
        """Add an epoch: features (N, F) and classes (N,), kept on the CPU.

        A class that it lacks keeps what it had.

        Raises:
            ValueError: If a class was counted to have no image.
        """
        order = label.argsort(stable=True)
        seen = label.bincount(minlength=len(self._kept)).tolist()
        for c, own in enumerate(features[order].split(seen)):
            if not len(own):
                continue
            if not self.epochs[c]:
                raise ValueError(f'class {c} has features, but was counted to have no image')
            # Cloned: a part would keep the whole epoch in memory.
            self._kept[c].append((own[: self.per_class].cpu().clone(), own.mean(dim=0).cpu()))

    def balanced(self) -> tuple[Tensor, Tensor]:
        """The features of all classes (M, F) and their classes (M,)."""
        found = {c: self._of(kept) for c, kept in enumerate(self._kept) if kept}
        classes = [torch.full((len(own),), c) for c, own in found.items()]
        return torch.cat(list(found.values())), torch.cat(classes)

    def state_dict(self) -> list[list[tuple[Tensor, Tensor]]]:
        """What is kept, for a checkpoint."""
        return [list(kept) for kept in self._kept]

    def load_state_dict(self, state: Sequence[Sequence[tuple[Tensor, Tensor]]]) -> None:
        """Take up what a checkpoint has.

        Raises:
            ValueError: If it is of another number of classes.
        """
        if len(state) != len(self._kept):
            raise ValueError(
                f'the checkpoint has features of {len(state)} classes, the data {len(self._kept)}'
            )
        for kept, own in zip(self._kept, state):
            kept.clear()
            # A checkpoint may have been read onto a GPU.
            kept.extend(tuple(part.cpu() for part in epoch) for epoch in own)

    def _of(self, kept: deque[tuple[Tensor, Tensor]]) -> Tensor:
        newest = kept[-1][1]
        moved = [features - mean + newest for features, mean in reversed(kept)]
        return torch.cat(moved)[: self.per_class]
