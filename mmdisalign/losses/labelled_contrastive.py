"""The loss of momentum contrast where the labels are known."""

from __future__ import annotations

import torch
from torch import Tensor


def labelled_contrastive_loss(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    label: Tensor,
    queue_label: Tensor,
    temperature: float = 0.2,
) -> Tensor:
    r"""Of each image, how well its key is told from those of other classes; the mean.

    .. math:: -\log \frac{e^{q \cdot k / T}}
        {e^{q \cdot k / T} + \sum_{y_i \neq y} e^{q \cdot k_i / T}}

    Source: Li et al., "Self Supervision to Distillation for Long-Tailed Visual Recognition", ICCV
    2021, section 3.1: keys of the queue that have the image's own label are no negatives.

    Args:
        query: q, of length 1, shape (N, D).
        key: k, of length 1, the image's other view, shape (N, D).
        queue: :math:`k_i`, shape (K, D).
        label: y, shape (N,).
        queue_label: :math:`y_i`, shape (K,).
        temperature: T. Default: 0.2.
    """
    with torch.autocast(query.device.type, enabled=False):
        # A sum over the queue may be more than half precision has.
        kind = torch.promote_types(query.dtype, torch.float32)
        query, key, queue = query.to(kind), key.detach().to(kind), queue.detach().to(kind)
        own = (query * key).sum(dim=1, keepdim=True)
        others = (query @ queue.T).masked_fill(label[:, None] == queue_label, -torch.inf)
        scores = torch.cat([own, others], dim=1) / temperature
        return (scores.logsumexp(dim=1) - scores[:, 0]).mean()
