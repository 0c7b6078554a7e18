"""Losses for bbox heads: those of ``mmdisalign.losses`` with a detector's background."""

from __future__ import annotations

import logging
from typing import Any, Optional, Union

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.losses import CrossEntropyLoss, SeesawLoss, accuracy
from mmdet.models.losses.utils import weight_reduce_loss
from mmdet.models.roi_heads.bbox_heads import SABLHead
from mmdet.registry import MODELS
from mmengine.logging import MessageHub, print_log
from torch import Tensor, nn
from torch.nn.functional import one_hot

from .. import losses
from ..calibration import ClassPrior, PriorLike, ZeroCount
from ..losses.links import Sigmoid
from .initial_bias import InitialBiasMixin, OfHeadMixin

# No label of a detector means 'ignore': label_weights do, and 255 may be a class.
BBOX_HEAD = {'ignore_index': -100, 'loss_name': 'loss_cls'}


@MODELS.register_module()
class GRWCrossEntropyLoss(losses.GRWCrossEntropyLoss):
    """:class:`mmdisalign.losses.GRWCrossEntropyLoss` over foreground and background.

    The prior weighs the foreground classes; the background, the last score, has weight 1. As in the
    released detection code, the mean is over the sum of the weights of the sampled proposals.

    Args:
        class_prior: Frequencies of the foreground classes.
        exp_scale: ρ.
        normalizer: Default: ``'class_weight'``. With ``'elements'`` or ``'valid'``, mmdet's
            ``avg_factor`` is the number of proposals.
        kwargs: Other arguments of the base class.
    """

    def __init__(
        self,
        class_prior: PriorLike,
        exp_scale: float,
        *,
        normalizer: str = 'class_weight',
        **kwargs: Any,
    ) -> None:
        kwargs = {'background_weight': 1.0, **BBOX_HEAD, **kwargs}
        super().__init__(class_prior, exp_scale, normalizer=normalizer, **kwargs)


@MODELS.register_module()
class BalancedSoftmaxLoss(losses.BalancedSoftmaxLoss):
    """:class:`mmdisalign.losses.BalancedSoftmaxLoss` over foreground and background.

    Args:
        class_prior: Counts of the foreground classes.
        background_count: A number, or ``'left_out'``. Default: ``'left_out'``.
        kwargs: Other arguments of the base class.
    """

    def __init__(
        self,
        class_prior: PriorLike,
        *,
        background_count: Union[float, str] = 'left_out',
        **kwargs: Any,
    ) -> None:
        super().__init__(class_prior, background_count=background_count, **{**BBOX_HEAD, **kwargs})


class CheckedClassesMixin(OfHeadMixin):
    """Mixed in before a loss with ``num_classes``, its head's, and ``num_scores`` of these."""

    custom_cls_channels = True

    def belong_to(self, owner: nn.Module) -> None:
        """ValueError if the head has other classes: mmdet's bbox heads alone ask for them."""
        super().belong_to(owner)
        if isinstance(owner, (BaseDenseHead, SABLHead)):
            self.get_cls_channels(owner.num_classes)

    def get_cls_channels(self, num_classes: int) -> int:
        """Number of scores of a head with so many classes; ValueError if the loss has others."""
        if num_classes != self.num_classes:
            raise ValueError(
                f'the head has {num_classes} classes, but {type(self).__name__} '
                f'{self.num_classes}: give it the same num_classes, or the class_prior of its data'
            )
        return self.num_scores


class SoftmaxOfClassesMixin(CheckedClassesMixin):
    """A loss on the softmax of C + 1 scores."""

    def belong_to(self, owner: nn.Module) -> None:
        """In a dense head, be as mmdet's cross-entropy is.

        Such a head takes the probabilities that it asks for as they are, and the background would
        be a class; of a loss that it does not ask, it drops the background itself.
        """
        super().belong_to(owner)
        if isinstance(owner, BaseDenseHead):
            self.custom_cls_channels = False

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Probabilities of scores, both (N, C + 1), where mmdet asks for them."""
        return cls_score.softmax(dim=-1)


class OwnScoresMixin(CheckedClassesMixin, InitialBiasMixin):
    """What mmdet's bbox heads ask of a loss that is not on a softmax of C + 1 scores.

    Mixed in before a loss that has ``num_classes``, ``num_scores``, ``probabilities`` and
    ``initial_bias``.
    """

    custom_activation = custom_accuracy = True

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Probabilities (N, C + 1) of scores: mmdet drops the last, the background's."""
        return self.probabilities(cls_score)

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Optional[Tensor]]:
        """Accuracy, in per cent, over the proposals of an object."""
        objects = (labels >= 0) & (labels < self.num_classes)
        found = self.probabilities(cls_score)[objects, : self.num_classes]
        return {'acc_classes': accuracy(found, labels[objects])}


class WithBackgroundMixin:
    """Gives a loss of a prior's classes the score of a background, in a bbox head."""

    def __init__(self, class_prior: PriorLike, *args: Any, **kwargs: Any) -> None:
        super().__init__(class_prior, *args, **{'background': True, **BBOX_HEAD, **kwargs})


class EachClassMixin(OwnScoresMixin):
    """A loss of C scores, for dense heads, too, which read ``use_sigmoid=True`` as that."""

    for_dense_heads = True

    def __init__(self, *args: Any, use_sigmoid: bool = True, **kwargs: Any) -> None:
        if not use_sigmoid:
            raise ValueError(f'{type(self).__name__} is of each class: set use_sigmoid=True')
        super().__init__(*args, **kwargs)
        self.use_sigmoid = isinstance(self.link, Sigmoid)


class CountsImagesMixin:
    """A loss whose classes are rare by their images, of which a detector's have several classes."""

    def __init__(
        self,
        class_prior: PriorLike,
        lambda_: float = 1.76e-3,
        num_images: Optional[float] = None,
        **kwargs: Any,
    ) -> None:
        if num_images is None:
            raise ValueError(
                f'{type(self).__name__} counts images: set num_images to how many there are in '
                "training, and class_prior to images, such as dict(source=..., unit='images')"
            )
        super().__init__(class_prior, lambda_=lambda_, num_images=num_images, **kwargs)
        if lambda_ > 0 and not self.tail.any():
            text = f'{type(self).__name__} is as without it: no class is in less than a share of'
            print_log(f'{text} {lambda_:g} of {num_images:g} images', 'current', logging.WARNING)


@MODELS.register_module()
class BalancedSigmoidLoss(OwnScoresMixin, losses.BalancedSigmoidLoss):
    """:class:`mmdisalign.losses.BalancedSigmoidLoss` for a bbox head, which gets C scores.

    Args:
        class_prior: Counts of the foreground classes.
        kwargs: Other arguments of the base class.
    """

    initial_bias = None

    def __init__(self, class_prior: PriorLike, **kwargs: Any) -> None:
        super().__init__(class_prior, **{**BBOX_HEAD, **kwargs})


@MODELS.register_module()
class EQLLoss(CountsImagesMixin, EachClassMixin, losses.EQLLoss):
    """:class:`mmdisalign.losses.EQLLoss`."""


@MODELS.register_module()
class DropLoss(CountsImagesMixin, EachClassMixin, losses.DropLoss):
    """:class:`mmdisalign.losses.DropLoss`."""


@MODELS.register_module()
class EqualizedFocalLoss(EachClassMixin, losses.EqualizedFocalLoss):
    """:class:`mmdisalign.losses.EqualizedFocalLoss`."""


@MODELS.register_module()
class GradLibraLoss(EachClassMixin, losses.GradLibraLoss):
    """:class:`mmdisalign.losses.GradLibraLoss`."""


@MODELS.register_module()
class EQLv2Loss(OwnScoresMixin, losses.EQLv2Loss):
    """:class:`mmdisalign.losses.EQLv2Loss`, for bbox heads."""


@MODELS.register_module()
class GumbelLoss(OwnScoresMixin, losses.GumbelLoss):
    """:class:`mmdisalign.losses.GumbelLoss`, for bbox heads."""


@MODELS.register_module()
class SoftmaxEQLLoss(
    SoftmaxOfClassesMixin, CountsImagesMixin, WithBackgroundMixin, losses.SoftmaxEQLLoss
):
    """:class:`mmdisalign.losses.SoftmaxEQLLoss` over foreground and background.

    Args:
        class_prior: Image counts of the foreground classes.
        kwargs: Other arguments of the base class.
    """


@MODELS.register_module()
class IIFLoss(OwnScoresMixin, WithBackgroundMixin, losses.IIFLoss):
    """:class:`mmdisalign.losses.IIFLoss` over foreground and background.

    Args:
        class_prior: Counts of the foreground classes.
        kwargs: Other arguments of the base class.
    """

    initial_bias = None


class BalancedByEpochMixin:
    """A loss with a ``balance``, which is told how far training is.

    Args:
        by_epoch: Whether the balance begins with an epoch; else with an iteration. Default: True.
        kwargs: Of the loss.
    """

    def __init__(self, *args: Any, by_epoch: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._counted = 'epoch' if by_epoch else 'iter'

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the loss; arguments as of mmdet's."""
        self.balance.progress = MessageHub.get_current_instance().get_info(self._counted, 0)
        return super().forward(*args, **kwargs)


@MODELS.register_module()
class PCBLoss(SoftmaxOfClassesMixin, BalancedByEpochMixin, losses.PCBLoss):
    """:class:`mmdisalign.losses.PCBLoss`."""


@MODELS.register_module()
class EQLv2PCBLoss(BalancedByEpochMixin, OwnScoresMixin, losses.EQLv2PCBLoss):
    """:class:`mmdisalign.losses.EQLv2PCBLoss`, for bbox heads."""


class _SoftSeesaw(SeesawLoss):
    """Seesaw loss, with soft targets for a share of it."""

    def __init__(
        self, num_classes: int, alpha: float = 0.05, *, balance: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(num_classes=num_classes, **kwargs)
        self.num_scores = num_classes + 2  # two of objectness
        self.balance = losses.PairwiseBalance(num_classes, alpha, **(balance or {}))

    def forward(
        self,
        cls_score: Tensor,
        labels: Tensor,
        label_weights: Optional[Tensor] = None,
        **reduced: Any,
    ) -> dict[str, Tensor]:
        """Losses of objectness, of classes and of soft classes; arguments as of mmdet's."""
        scores = cls_score.to(torch.promote_types(cls_score.dtype, torch.float32))
        found = super().forward(scores, labels, label_weights, **reduced)
        weight = torch.ones_like(scores[:, 0]) if label_weights is None else label_weights
        rows = (labels < self.num_classes) & (weight > 0)
        scores, labels, weight = scores[rows, :-2], labels[rows], weight[rows]
        objects = one_hot(labels, self.num_classes).to(scores.dtype)
        if self.training and cls_score.requires_grad:
            with torch.autocast(scores.device.type, enabled=False):
                self.balance.update(scores.detach().softmax(dim=1), objects)
        share = self.balance.share()
        compensated = losses.seesaw_scores(
            scores, labels, self.cum_samples[:-1], p=self.p, q=self.q, least=self.eps
        )
        soft = losses.soft_cross_entropy(compensated, self.balance.targets(objects))
        if len(soft):  # the mean of none is NaN
            reduction = reduced.get('reduction_override') or self.reduction
            soft = weight_reduce_loss(soft, weight, reduction, reduced.get('avg_factor'))
        found['loss_pcb_classes'] = share * self.loss_weight * soft.sum()
        found['loss_cls_classes'] = (1 - share) * found['loss_cls_classes']
        return found


@MODELS.register_module()
class SeesawPCBLoss(CheckedClassesMixin, BalancedByEpochMixin, _SoftSeesaw):
    """mmdet's Seesaw loss with :class:`mmdisalign.losses.PairwiseBalance`.

    Source: He et al., CVPR 2022. The soft targets are of the same compensated scores.

    Args:
        num_classes: Number of classes C.
        alpha: The share of the soft targets. Default: 0.05, as released.
        balance: Other arguments of :class:`mmdisalign.losses.PairwiseBalance`.
        kwargs: Of mmdet's ``SeesawLoss``.
    """

    def belong_to(self, owner: nn.Module) -> None:
        """TypeError of a head that does not ask how many scores to make."""
        if isinstance(owner, (BaseDenseHead, SABLHead)):
            raise TypeError(
                f'{type(self).__name__} is for bbox heads: {type(owner).__name__} does not ask its '
                'loss for the number of scores, of which it takes two of objectness'
            )
        super().belong_to(owner)


class GRWIIFLoss(OwnScoresMixin, GRWCrossEntropyLoss):
    """GRW cross-entropy of a bbox head whose scores IIF multiplies, in training and at test.

    Args:
        trained: What the head was trained with.
        args: Of :class:`GRWCrossEntropyLoss`.
        kwargs: Of :class:`GRWCrossEntropyLoss`.
    """

    initial_bias = None

    def __init__(self, trained: losses.IIFLoss, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer('factors', trained.factors, persistent=False)

    adjusted, probabilities = losses.IIFLoss.adjusted, losses.IIFLoss.probabilities


def stage2_loss(
    trained: nn.Module, prior: ClassPrior, exp_scale: float, zero_count: ZeroCount
) -> Optional[GRWCrossEntropyLoss]:
    """The GRW cross-entropy of a bbox head that was trained with a loss on one softmax.

    What SEQL and PCB change in training is no part of it; what IIF changes at test is.

    Args:
        trained: The loss.
        prior: Of stage 2.
        exp_scale: ρ.
        zero_count: How to weigh classes that were never seen.

    Returns:
        None of a loss of another kind, or with options that would be lost.
    """
    options = dict(zero_count=zero_count, loss_weight=getattr(trained, 'loss_weight', 1.0))
    if isinstance(trained, losses.IIFLoss):
        return GRWIIFLoss(trained, prior, exp_scale, **options)
    if not (isinstance(trained, (losses.SoftmaxEQLLoss, losses.PCBLoss)) or _is_plain(trained)):
        return None
    loss = GRWCrossEntropyLoss(prior, exp_scale, **options)
    if isinstance(trained, losses.PCBLoss):
        loss.balance = trained.balance  # a checkpoint of stage 1 has it
    return loss


def _is_plain(loss: nn.Module) -> bool:
    """Whether a loss is softmax cross-entropy without options that would be lost."""
    if type(loss) is not CrossEntropyLoss or loss.use_sigmoid or loss.use_mask:
        return False
    return loss.class_weight is None and loss.ignore_index is None and loss.reduction == 'mean'
