"""Generalized re-weighting in the losses of mmpretrain's heads, on a softmax or on sigmoids."""

from __future__ import annotations

from typing import Any, Optional

from mmpretrain.models.losses import (
    AsymmetricLoss,
    CrossEntropyLoss,
    FocalLoss,
    LabelSmoothLoss,
)
from mmpretrain.models.losses.utils import weight_reduce_loss
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import one_hot

from .. import losses
from ..calibration import ClassPrior, ZeroCount, generalized_reweight, mix_in


@MODELS.register_module()
class GRWCrossEntropyLoss(losses.GRWCrossEntropyLoss):
    """:class:`mmdisalign.losses.GRWCrossEntropyLoss`."""


class ScaledGRWCrossEntropyLoss(GRWCrossEntropyLoss):
    """GRW cross-entropy of scores times a factor, by which another loss has multiplied them.

    Args:
        scale: The factor.
        args: Of :class:`GRWCrossEntropyLoss`.
        kwargs: Of :class:`GRWCrossEntropyLoss`.
    """

    def __init__(self, scale: float, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scale = scale

    def adjusted(self, pred: Tensor, label: Tensor) -> Tensor:
        """The scores, multiplied."""
        return self.scale * pred


class ReweightedSigmoidsMixin:
    r"""Weighs the positive terms of a loss on sigmoids by their class; mixed in before its class.

    The loss of an image is a sum over classes. The term of class c is multiplied by w_c where the
    image is of class c, and stays where it is not:

    .. math:: \sum_c (1 + (w_c - 1)\, t_{nc})\, \ell_{nc}

    with the label t in {0, 1}, or between where images are mixed. It is before label smoothing,
    which :class:`~mmdisalign.losses.reweighted.ReweightedPositivesMixin` could not see behind.

    This form is ours: the paper has softmax cross-entropy alone. A class's own average precision is
    unmoved by its α and β, which change the choice between classes and what passes a threshold;
    σ(x) can reorder the images of a class.
    """

    grw_weight: Tensor

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Optional[Tensor] = None,
        avg_factor: Optional[float] = None,
        reduction_override: Optional[str] = None,
        **kwargs: Any,
    ) -> Tensor:
        """As of the loss's own forward.

        Args:
            cls_score: Scores, shape (N, C).
            label: Class indices, shape (N,), or one-hot or mixed labels, shape (N, C).
            weight: Of each image, shape (N,).
            avg_factor: What the mean divides by.
            reduction_override: In the place of the loss's own reduction.
            kwargs: Other arguments of the loss.
        """
        if label.dim() < cls_score.dim():
            label = one_hot(label, cls_score.shape[1])
        # Focal loss takes weights of terms, and the others of images: none is given to them.
        terms = super().forward(cls_score, label.float(), reduction_override='none', **kwargs)
        own = 1 + (self.grw_weight.to(terms) - 1) * label.to(terms)
        own = own if weight is None else own * weight.reshape(len(weight), -1)
        return weight_reduce_loss(terms, own, reduction_override or self.reduction, avg_factor)


def scale_of(loss: nn.Module) -> float:
    """What a loss multiplies scores by that are not multiplied at test: s of LDAM and GCL."""
    return loss.scale if isinstance(loss, (losses.LDAMLoss, losses.GCLLoss)) else 1.0


def grw_loss(
    loss: nn.Module,
    prior: ClassPrior,
    exp_scale: float,
    zero_count: ZeroCount,
    scale: float = 1.0,
) -> nn.Module:
    """The loss with the weights of GRW, in the place of a stock one.

    On a softmax, it is a :class:`GRWCrossEntropyLoss`, divided by the sum of the class weights as
    released; ``class_weight`` and label smoothing of the stock loss are left out. On sigmoids, it
    is the stock loss itself, changed in place, see :class:`ReweightedSigmoidsMixin`.

    Args:
        loss: ``CrossEntropyLoss`` or ``LabelSmoothLoss``, ``FocalLoss`` or ``AsymmetricLoss``.
        prior: Class frequencies of the training images.
        exp_scale: ρ.
        zero_count: How to weigh classes that were never seen, see :func:`generalized_reweight`.
        scale: What a loss on a softmax multiplies the scores by, see :func:`scale_of`. Default: 1,
            they have been multiplied.

    Raises:
        ValueError: If it is another loss.
    """
    if _is_on_softmax(loss):
        options = dict(
            normalizer='class_weight', zero_count=zero_count, loss_weight=loss.loss_weight
        )
        if scale != 1:
            return ScaledGRWCrossEntropyLoss(scale, prior, exp_scale, **options)
        return GRWCrossEntropyLoss(prior, exp_scale, **options)
    if not _is_on_sigmoids(loss):
        raise ValueError(
            'class_prior goes into CrossEntropyLoss, LabelSmoothLoss, FocalLoss and AsymmetricLoss '
            f'on sigmoids, but the loss is {type(loss).__name__}: leave class_prior out, or put '
            'GRWCrossEntropyLoss into the head'
        )
    mix_in(loss, ReweightedSigmoidsMixin, 'Reweighted')
    weight = generalized_reweight(prior, exp_scale, zero_count=zero_count)
    loss.register_buffer('grw_weight', weight, persistent=False)
    return loss


def _is_on_softmax(loss: nn.Module) -> bool:
    # What those adjust is of training: at test, the scores are as they are, but for one factor of
    # all of them, which changes no decision there and all that is learned here: scale_of.
    if isinstance(loss, losses.AdjustedCrossEntropyLoss):
        return not isinstance(loss, losses.GRWCrossEntropyLoss)
    if type(loss) is LabelSmoothLoss:
        return not loss.ce.use_sigmoid
    return type(loss) is CrossEntropyLoss and not loss.use_sigmoid


def _is_on_sigmoids(loss: nn.Module) -> bool:
    if type(loss) is LabelSmoothLoss:
        return loss.ce.use_sigmoid
    return type(loss) is FocalLoss or (
        type(loss) in (CrossEntropyLoss, AsymmetricLoss) and loss.use_sigmoid
    )
