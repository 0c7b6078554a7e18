"""Calibrated classification heads: each is its mmpretrain head with a calibration behind it."""

from __future__ import annotations

from functools import cache
from typing import Any

from mmpretrain.models import heads
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..calibration import AdaptiveCalibration, ClassScale, CosineLinear, convert_released_keys
from ..engine import check_prior, derive


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
    """Calibrates the scores of a head; mixed in before the head's class.

    The parameters of the head keep their names; those of the calibration are ``calibration.*``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calibration = self._build_calibration(classifier_of(self))
        check_prior(self.loss_module, self.num_classes, 'head')

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Calibrated scores (N, C); arguments as of the head's own ``forward``."""
        return self.calibration(super().forward(feats), self.pre_logits(feats))

    def _build_calibration(self, classifier: nn.Linear) -> nn.Module:
        return AdaptiveCalibration(self.num_classes, classifier.in_features)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        convert_released_keys(state_dict, prefix, formula='increment')
        super()._load_from_state_dict(state_dict, prefix, *args)


@MODELS.register_module()
class LWSLinearClsHead(CalibratedClsHeadMixin, heads.LinearClsHead):
    """mmpretrain's ``LinearClsHead`` with a learned factor a class, see :class:`ClassScale`."""

    def _build_calibration(self, classifier: nn.Linear) -> nn.Module:
        return ClassScale(self.num_classes)


@cache
def calibrated(head: type) -> type:
    """The calibrated class of a head class, registered in mmpretrain as ``DisAlign<head>``.

    Args:
        head: mmpretrain's ``LinearClsHead``, ``VisionTransformerClsHead``, or a subclass.

    Raises:
        TypeError: If the head is another one.
    """
    if issubclass(head, CalibratedClsHeadMixin):
        return head
    if not issubclass(head, (heads.LinearClsHead, heads.VisionTransformerClsHead)):
        raise TypeError(
            f'{head.__name__} cannot be calibrated: it is not a LinearClsHead or a '
            'VisionTransformerClsHead, so its features and scores are not known'
        )
    return derive(head, CalibratedClsHeadMixin, MODELS)


def classifier_name(head: nn.Module) -> str:
    """Name, within a head, of the layer that makes scores of ``pre_logits``.

    Raises:
        TypeError: If it is not known.
    """
    modules = dict(head.named_modules())
    for name in ('fc', 'layers.head'):
        if isinstance(modules.get(name), nn.Linear):
            return name
    raise TypeError(
        f"{type(head).__name__} has no linear classifier 'fc' or 'layers.head'; LinearClsHead and "
        'VisionTransformerClsHead have'
    )


def classifier_of(head: nn.Module) -> nn.Linear:
    """The layer of a head that makes scores (N, C) of ``pre_logits`` (N, F)."""
    return head.get_submodule(classifier_name(head))


DisAlignLinearClsHead = calibrated(heads.LinearClsHead)
DisAlignVisionTransformerClsHead = calibrated(heads.VisionTransformerClsHead)
DisAlignCosineClsHead = calibrated(CosineClsHead)
