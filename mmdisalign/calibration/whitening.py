"""Channel whitening of features before a classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import processes


class Whitening(nn.Module):
    r"""ZCA whitening: :math:`(x - \mu)\, \Sigma^{-1/2}`, of a batch in training.

    At test, of the moving mean and covariance. Source of the operator: Huang et al., "Decorrelated
    Batch Normalization", CVPR 2018; that of its use before the classifier of long-tailed data:
    Zhang, arXiv 2112.05958, which was withdrawn.

    The inverse root is from eigenvectors, in float32 at least, with a gradient that is finite where
    eigenvalues are equal: it comes from the equation that a root solves. The textbook Newton-Schulz
    iteration diverges after a dozen steps.

    Args:
        num_channels: F.
        num_groups: Groups of channels that are whitened each by itself: a covariance needs more
            elements than channels. Default: 1.
        eps: Added to the variances. Default: 1e-5.
        momentum: Of the moving statistics. Default: 0.1.

    Attributes:
        running_mean: Shape (F,), at first 0.
        running_covariance: Of each group, shape (G, F / G, F / G), at first the identity.
    """

    running_mean: Tensor
    running_covariance: Tensor

    def __init__(
        self, num_channels: int, num_groups: int = 1, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__()
        if num_channels % num_groups:
            raise ValueError(f'{num_channels} channels cannot be split into {num_groups} groups')
        self.num_groups, self.eps, self.momentum = num_groups, eps, momentum
        size = num_channels // num_groups
        self.register_buffer('running_mean', torch.zeros(num_channels))
        self.register_buffer('running_covariance', torch.eye(size).repeat(num_groups, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Whitened features (N, F)."""
        with torch.autocast(features.device.type, enabled=False):
            return self._whitened(features.to(torch.promote_types(features.dtype, torch.float32)))

    def _whitened(self, x: Tensor) -> Tensor:
        if self.training:
            mean, covariance = self._of_batch(x)
        else:
            mean, covariance = self.running_mean.to(x.dtype), self.running_covariance.to(x.dtype)
        groups = (x - mean).unflatten(1, (self.num_groups, -1))
        return torch.einsum('ngi,gij->ngj', groups, inverse_root(covariance)).flatten(1)

    def _of_batch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.mean(dim=0)
        groups = (x - mean).unflatten(1, (self.num_groups, -1))
        covariance = torch.einsum('ngi,ngj->gij', groups, groups) / len(x)
        covariance = covariance + self.eps * torch.eye(groups.shape[2]).to(x)
        with torch.no_grad():
            for running, own in (
                (self.running_mean, mean),
                (self.running_covariance, covariance),
            ):
                shared = processes.summed(own.detach().clone()) / processes.number()
                running.lerp_(shared.to(running.dtype), self.momentum)
        return mean, covariance


def inverse_root(matrices: Tensor) -> Tensor:
    r""":math:`\Sigma^{-1/2}` of symmetric positive definite matrices (G, F, F)."""
    return _InverseRoot.apply(matrices)


class _InverseRoot(torch.autograd.Function):
    """The derivative of f(Σ) = Σ^(-1/2) in the basis of Σ's eigenvectors (Daleckii-Krein)."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, matrices: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(matrices)
        roots = values.clamp(min=torch.finfo(values.dtype).eps).sqrt()
        ctx.save_for_backward(roots, vectors)
        return vectors / roots[:, None] @ vectors.mT

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        roots, vectors = ctx.saved_tensors
        a, b = roots[:, :, None], roots[:, None, :]
        # (f(a²) - f(b²)) / (a² - b²), without a difference that can be 0.
        slope = -1 / (a * b * (a + b))
        symmetric = (gradient + gradient.mT) / 2
        return vectors @ (slope * (vectors.mT @ symmetric @ vectors)) @ vectors.mT
