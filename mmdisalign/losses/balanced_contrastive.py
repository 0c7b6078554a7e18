"""Balanced contrastive loss: classes, not images, repel each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def balanced_contrastive_loss(
    features: Tensor, label: Tensor, prototypes: Tensor, temperature: float = 0.07
) -> Tensor:
    r"""Supervised contrast of all views, in which each class has one vote and one prototype.

    .. math:: -\frac{1}{|P_i|} \sum_{p \in P_i} \log \frac{e^{x_i \cdot x_p / T}}
        {\sum_c \frac{1}{|B_c|} \sum_{k \in B_c} e^{x_i \cdot x_k / T}}

    B_c are the other views of class c and its prototype, P_i those of the class of i. Source: Zhu
    et al., "Balanced Contrastive Learning for Long-Tailed Visual Recognition", CVPR 2022, equation
    6; its total is a logit-adjusted cross-entropy and 0.35 times this.

    Args:
        features: Of V views of each image, of length 1, shape (N, V, F).
        label: Shape (N,).
        prototypes: Of each class, of length 1, shape (C, F).
        temperature: T.
    """
    views = features.transpose(0, 1).flatten(0, 1)
    of_views = label.repeat(features.shape[1])
    classes = torch.cat([of_views, torch.arange(len(prototypes), device=label.device)])
    logits = views @ torch.cat([views, prototypes]).T / temperature
    other = ~torch.eye(*logits.shape, dtype=torch.bool, device=logits.device)
    positive = (of_views[:, None] == classes) & other
    counts = F.one_hot(classes, len(prototypes)).sum(0)[classes] - positive.long()
    weighed = (logits - counts.clamp(min=1).log()).masked_fill(~other, -torch.inf)
    log_share = logits - weighed.logsumexp(dim=1, keepdim=True)
    return -((log_share * positive).sum(1) / positive.sum(1)).mean()
