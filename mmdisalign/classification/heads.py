"""Calibrated classification heads: each is its mmpretrain head with calibrated layers."""

from __future__ import annotations

from functools import cache
from typing import Any, Optional

import torch
from mmengine.logging import MessageHub
from mmpretrain.models import heads
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..calibration import (
    AffineMap,
    CausalLinear,
    ClassScale,
    CosineLinear,
    MarginScores,
    VMFLinear,
    Whitening,
    class_feature_discrepancy,
    convert_released_keys,
    hold_calibration,
    inter_class_overlap,
)
from ..engine import check_prior, derive, refusal
from .layers import calibrate, head_layers, known_base

# Checkpoints have had the calibration of these in the head, before layers were calibrated.
WITH_CALIBRATION = ('LinearClsHead', 'VisionTransformerClsHead')


class NormalizedLinearClsHead(heads.LinearClsHead):
    """A ``LinearClsHead`` for classifiers that normalise their weights.

    mmpretrain starts linear layers with a standard deviation of 0.01, so weights of 64 channels
    with a length of 0.08. A gradient of a direction is the longer the shorter the weight: in the
    first steps those would grow a hundredfold, in directions that chance decides, and stay there.
    So such a classifier starts as it says itself, unless ``init_cfg`` says otherwise.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        *,
        init_cfg: Optional[dict] = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, in_channels, init_cfg=init_cfg, **kwargs)


@MODELS.register_module()
class CosineClsHead(NormalizedLinearClsHead):
    """mmpretrain's ``LinearClsHead`` with a cosine classifier, see :class:`CosineLinear`.

    Args:
        num_classes: Number of classes C.
        in_channels: Number of channels F.
        scale: Where the factor of the cosines starts. Default: 20.
        learned: Whether it is learned. Default: True.
        kwargs: Arguments of ``LinearClsHead``.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        *,
        scale: float = 20.0,
        learned: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, in_channels, **kwargs)
        self.fc = CosineLinear(in_channels, num_classes, scale, learned)


class CalibratedClsHeadMixin:
    """Calibrates the classification layers of a head; mixed in before the head's class.

    Of a head with two, both that predict are calibrated. The parameters of the head keep their
    names; those of the calibration are ``calibration.*`` of the layer, or of the head itself in a
    ``LinearClsHead`` or ``VisionTransformerClsHead``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        layers = head_layers(self)
        classes = calibrate(type(self), layers)
        if known_base(type(self)) in WITH_CALIBRATION:
            (layer,) = layers.values()
            hold_calibration(self, layer)
        _check_loss(self.loss_module, classes)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        convert_released_keys(state_dict, prefix, formula='increment')
        super()._load_from_state_dict(state_dict, prefix, *args)


class CalibratedEfficientFormerMixin(CalibratedClsHeadMixin):
    """Has a loss also with the classifier for distillation, where mmpretrain has none."""

    def loss(
        self, feats: tuple[Tensor, ...], data_samples: list[DataSample], **kwargs: Any
    ) -> dict[str, Tensor]:
        """Losses of the mean of both classifiers, which predicts; arguments as of ``ClsHead``."""
        return heads.ClsHead.loss(self, feats, data_samples, **kwargs)


class CalibratedLeViTMixin(CalibratedClsHeadMixin):
    """Keeps the normalisation before its layers, whose outputs the calibrations see."""

    def switch_to_deploy(self, *args: Any) -> None:
        """Raise TypeError: σ(x) would no longer see what it was trained on."""
        raise refusal(
            heads.LeViTClsHead,
            'with deploy=True, the normalisation before its layer is fused into it; calibrate and '
            'use the model as it is trained',
        )


SPECIAL = {
    'EfficientFormerClsHead': CalibratedEfficientFormerMixin,
    'LeViTClsHead': CalibratedLeViTMixin,
}


class ScaledLinearClsHead(heads.LinearClsHead):
    """A ``LinearClsHead`` whose scores a calibration of its own scales and shifts.

    A subclass makes it in :meth:`make_calibration`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calibration = self.make_calibration()
        _check_loss(self.loss_module, self.num_classes)

    def make_calibration(self) -> AffineMap:
        """Untouched, the scores stay as they are."""
        raise NotImplementedError

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Calibrated scores (N, C); arguments as of the head's own ``forward``."""
        return self.calibration(super().forward(feats), self.pre_logits(feats))


@MODELS.register_module()
class LWSLinearClsHead(ScaledLinearClsHead):
    """mmpretrain's ``LinearClsHead`` with a learned factor a class, see :class:`ClassScale`."""

    def make_calibration(self) -> ClassScale:
        """Factors of 1."""
        return ClassScale(self.num_classes)


@MODELS.register_module()
class MARCLinearClsHead(ScaledLinearClsHead):
    """mmpretrain's ``LinearClsHead`` with calibrated margins, see :class:`MarginScores`.

    A weight decay pulls ω to 1, where the released code pulls it to 0.
    """

    def make_calibration(self) -> MarginScores:
        """ω of 1, β of 0."""
        return MarginScores(self.fc.weight.new_zeros(self.num_classes))

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Scores (N, C), whose margins are in units of the classifier's present norms."""
        self.calibration.norms = self.fc.weight.detach().norm(dim=1)
        return super().forward(feats)


@MODELS.register_module()
class TDEClsHead(NormalizedLinearClsHead):
    """mmpretrain's ``LinearClsHead`` with a de-confounded classifier, see :class:`CausalLinear`.

    Args:
        num_classes: Number of classes C.
        in_channels: Number of channels F.
        num_heads: K. Default: 2.
        tau: τ. Default: 16.
        gamma: γ. Default: 1/32.
        alpha: α, of test alone: ``test.py --cfg-options model.head.alpha=2``. In a checkpoint of
            ``calibrate.py --method tde`` is its own, which counts instead. Default: 3.
        momentum: μ. Default: 0.9.
        kwargs: Arguments of ``LinearClsHead``.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        *,
        num_heads: int = 2,
        tau: float = 16.0,
        gamma: float = 1 / 32,
        alpha: float = 3.0,
        momentum: float = 0.9,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, in_channels, **kwargs)
        own = dict(num_heads=num_heads, tau=tau, gamma=gamma, alpha=alpha, momentum=momentum)
        self.fc = CausalLinear(in_channels, num_classes, **own)


@MODELS.register_module()
class VMFClsHead(NormalizedLinearClsHead):
    """mmpretrain's ``LinearClsHead`` with a classifier of von Mises-Fisher densities.

    See :class:`VMFLinear`. The loss is to be ``BalancedSoftmaxLoss``, which adds the log counts in
    training. Beside it are, with a weight that falls to 0 with the epochs, the overlap of the
    classes, ``loss_overlap``, and that of classes with their features, ``loss_features``. Their
    optimiser: twice slower, and κ without decay, ``paramwise_cfg=dict(custom_keys={'head.fc':
    dict(lr_mult=0.5), 'head.fc.kappa': dict(lr_mult=0.5, decay_mult=0.0)})``.

    Args:
        num_classes: Number of classes C.
        in_channels: Number of channels F.
        kappa: Where κ starts. Default: 16.
        overlap_weight: Of both losses at first; 0 leaves them out. Default: 0.2.
        kwargs: Arguments of ``LinearClsHead``.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        *,
        kappa: float = 16.0,
        overlap_weight: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, in_channels, **kwargs)
        self.fc = VMFLinear(in_channels, num_classes, kappa)
        self.overlap_weight = overlap_weight

    def loss(
        self, feats: tuple[Tensor, ...], data_samples: list[DataSample], **kwargs: Any
    ) -> dict[str, Tensor]:
        """Losses of a batch; arguments as of ``ClsHead``."""
        losses = super().loss(feats, data_samples, **kwargs)
        # In a stage that freezes the classifier, they could change nothing.
        if not self.overlap_weight or not self.fc.weight.requires_grad:
            return losses
        weight, kappa = self.fc.weight, self.fc.concentration()
        share = self.overlap_weight * (1 - _progress()) ** 0.9
        losses['loss_overlap'] = share * inter_class_overlap(weight, kappa)
        if 'gt_score' not in data_samples[0]:  # mixed images are of no one class
            label = torch.cat([sample.gt_label for sample in data_samples]).to(weight.device)
            own = class_feature_discrepancy(self.pre_logits(feats), label, weight, kappa)
            losses['loss_features'] = share * own
        return losses


def _progress() -> float:
    """How far training is, from 0 to 1."""
    hub = MessageHub.get_current_instance()
    epochs, iters = (hub.get_info(end, 0) for end in ('max_epochs', 'max_iters'))
    if epochs > 1:  # a loop of iterations has one
        return min(hub.get_info('epoch', 0) / epochs, 1.0)
    return min(hub.get_info('iter', 0) / iters, 1.0) if iters else 0.0


@MODELS.register_module()
class WhitenedClsHead(heads.LinearClsHead):
    """mmpretrain's ``LinearClsHead`` on whitened features, see :class:`Whitening`.

    Args:
        num_classes: Number of classes C.
        in_channels: Number of channels F.
        num_groups: Groups of channels; a batch needs more images than a group has channels.
            Default: 1.
        kwargs: Arguments of ``LinearClsHead``.
    """

    def __init__(
        self, num_classes: int, in_channels: int, *, num_groups: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, in_channels, **kwargs)
        self.whitening = Whitening(in_channels, num_groups)

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Whitened features (N, F)."""
        return self.whitening(super().pre_logits(feats))


@cache
def calibrated(head: type) -> type:
    """The calibrated class of a head class, registered in mmpretrain as ``DisAlign<head>``.

    Args:
        head: One with a classification layer that is known, see ``PATHS`` in
            :mod:`mmdisalign.classification.layers`.

    Raises:
        TypeError: If the head is another one.
    """
    if issubclass(head, (CalibratedClsHeadMixin, ScaledLinearClsHead)):
        return head
    known = known_base(head)
    if known is None:
        raise refusal(head, 'it has no classification layer of its own')
    return derive(head, SPECIAL.get(known, CalibratedClsHeadMixin), MODELS)


def classifier_name(head: nn.Module) -> str:
    """Name, within a head, of the one layer that makes scores of ``pre_logits``.

    Raises:
        TypeError: If it is not known.
    """
    modules = dict(head.named_modules())
    for name in ('fc', 'layers.head'):
        if isinstance(modules.get(name), nn.Linear) and not isinstance(head, heads.DeiTClsHead):
            return name
    raise TypeError(
        f"{type(head).__name__} has no linear classifier 'fc' or 'layers.head' of its own; "
        'LinearClsHead and VisionTransformerClsHead have'
    )


def classifier_of(head: nn.Module) -> nn.Linear:
    """The layer of a head that makes scores (N, C) of ``pre_logits`` (N, F)."""
    return head.get_submodule(classifier_name(head))


def _check_loss(loss: nn.Module, num_classes: int) -> None:
    # What LabelSmoothLoss calls num_classes is of no prior, and may be None.
    if hasattr(loss, 'class_prior'):
        check_prior(loss, num_classes, 'head')


DisAlignLinearClsHead = calibrated(heads.LinearClsHead)
DisAlignVisionTransformerClsHead = calibrated(heads.VisionTransformerClsHead)
DisAlignCosineClsHead = calibrated(CosineClsHead)
