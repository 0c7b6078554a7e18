"""De-confounded classifiers: at test, without the direction that training drifts towards."""

from __future__ import annotations

import warnings
from typing import Any, Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import processes


class CausalLinear(nn.Linear):
    r"""Multi-head normalised classifier, whose scores at test are the total direct effect (TDE).

    With the K parts :math:`x^k, w_c^k` of features and weights, in training

    .. math:: z_c = \frac{\tau}{K} \sum_k
        \frac{x^k \cdot w_c^k}{\lVert x^k \rVert (\lVert w_c^k \rVert + \gamma)}

    and at test :math:`x^k / \lVert x^k \rVert` less :math:`\alpha \cos(x^k, d^k)\, d^k`, d the
    direction of the moving mean of the features. Source: Tang et al., "Long-Tailed Classification
    by Keeping the Good and Removing the Bad Momentum Causal Effect", NeurIPS 2020, section 4. As
    released, the mean is :math:`m \leftarrow \mu m + \bar x`, and each part of d has length 1.

    Args:
        in_features: Number of channels F, divisible by K.
        out_features: Number of classes C.
        num_heads: K. Default: 2.
        tau: τ. Default: 16.
        gamma: γ. Default: 1/32.
        alpha: α, unless the checkpoint has one: 0 subtracts nothing. Default: 3, for ImageNet-LT.
        momentum: μ. Default: 0.9.

    Attributes:
        direction: m, shape (F,), at first 0, with which nothing is subtracted.
        chosen: The α that was chosen after training, which counts instead of the argument, shape
            (). None until a checkpoint brings one: others have no such key.
    """

    direction: Tensor
    chosen: Optional[Tensor]

    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_heads: int = 2,
        tau: float = 16.0,
        gamma: float = 1 / 32,
        alpha: float = 3.0,
        momentum: float = 0.9,
    ) -> None:
        if in_features % num_heads:
            raise ValueError(f'{in_features} channels cannot be split into {num_heads} heads')
        super().__init__(in_features, out_features, bias=False)
        self.num_heads, self.tau, self.gamma = num_heads, tau, gamma
        self.alpha, self.momentum = alpha, momentum
        self.register_buffer('direction', torch.zeros(in_features))
        self.register_buffer('chosen', None)

    @property
    def alpha_at_test(self) -> Union[float, Tensor]:
        """α that counts."""
        return self.alpha if self.chosen is None else self.chosen

    def drift(self) -> tuple[Tensor, Tensor]:
        """What is subtracted of which features.

        Returns:
            d, shape (K, F / K), and the scores of each of its parts, shape (K, C): at test, α times
            the cosines of features with d, times these, is taken from the scores.
        """
        d = self._unit_direction(torch.promote_types(self.weight.dtype, torch.float32))
        return d, self.tau / self.num_heads * torch.einsum('kf,ckf->kc', d, self._unit_weight(d))

    def reset_parameters(self) -> None:
        """Begin anew: also what training drifts towards, which was of other features."""
        super().reset_parameters()
        if hasattr(self, 'direction'):  # not yet, when PyTorch's constructor comes here
            self.direction.zero_()

    def forward(self, features: Tensor) -> Tensor:
        """Scores (N, C) of features (N, F), in float32 at least."""
        with torch.autocast(features.device.type, enabled=False):
            return self._scores(features.to(torch.promote_types(features.dtype, torch.float32)))

    def _scores(self, features: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self._follow(features)
        unit = F.normalize(self._parts(features), dim=2)
        if not self.training:
            d = self._unit_direction(unit.dtype)
            unit = unit - self.alpha_at_test * (unit * d).sum(2, keepdim=True) * d
        w = self._unit_weight(unit)
        return self.tau / self.num_heads * torch.einsum('nkf,ckf->nc', unit, w)

    def _unit_direction(self, dtype: torch.dtype) -> Tensor:
        return F.normalize(self._parts(self.direction[None].to(dtype))[0], dim=1)

    def _unit_weight(self, like: Tensor) -> Tensor:
        w = self._parts(self.weight.to(like.dtype))
        return w / (w.norm(dim=2, keepdim=True) + self.gamma)

    def _parts(self, values: Tensor) -> Tensor:
        return values.unflatten(1, (self.num_heads, -1))

    @torch.no_grad()
    def _follow(self, features: Tensor) -> None:
        mean = features.detach().to(self.direction.dtype).mean(dim=0)
        mean = processes.summed(mean) / processes.number()
        self.direction.mul_(self.momentum).add_(mean)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        chosen = state_dict.get(f'{prefix}chosen')
        self.chosen = None if chosen is None else self.direction.new_zeros(())
        super()._load_from_state_dict(state_dict, prefix, *args)
        if chosen is not None and f'{float(chosen):g}' != f'{self.alpha:g}':
            warnings.warn(
                f'the checkpoint has α = {float(chosen):g}, chosen after training: it counts, and '
                f'not the option alpha = {self.alpha:g}',
                stacklevel=2,
            )
