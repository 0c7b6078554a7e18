"""Calibrated classification heads: each is its mmpretrain head with calibrated layers."""

from __future__ import annotations

from functools import cache
from typing import Any

from mmpretrain.models import heads
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..calibration import ClassScale, CosineLinear, convert_released_keys, hold_calibration
from ..engine import check_prior, derive, refusal
from .layers import calibrate, head_layers, known_base

# Checkpoints have had the calibration of these in the head, before layers were calibrated.
WITH_CALIBRATION = ('LinearClsHead', 'VisionTransformerClsHead')


@MODELS.register_module()
class CosineClsHead(heads.LinearClsHead):
    """mmpretrain's ``LinearClsHead`` with a cosine classifier, see :class:`CosineLinear`.

    Args:
        num_classes: Number of classes C.
        in_channels: Number of channels F.
        scale: Where the learnable factor of the cosines starts. Default: 20.
        kwargs: Arguments of ``LinearClsHead``.
    """

    def __init__(
        self, num_classes: int, in_channels: int, *, scale: float = 20.0, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, in_channels, **kwargs)
        self.fc = CosineLinear(in_channels, num_classes, scale)


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


@MODELS.register_module()
class LWSLinearClsHead(heads.LinearClsHead):
    """mmpretrain's ``LinearClsHead`` with a learned factor a class, see :class:`ClassScale`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calibration = ClassScale(self.num_classes)
        _check_loss(self.loss_module, self.num_classes)

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Scaled scores (N, C); arguments as of the head's own ``forward``."""
        return self.calibration(super().forward(feats), self.pre_logits(feats))


@cache
def calibrated(head: type) -> type:
    """The calibrated class of a head class, registered in mmpretrain as ``DisAlign<head>``.

    Args:
        head: One with a classification layer that is known, see ``PATHS`` in
            :mod:`mmdisalign.classification.layers`.

    Raises:
        TypeError: If the head is another one.
    """
    if issubclass(head, (CalibratedClsHeadMixin, LWSLinearClsHead)):
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
