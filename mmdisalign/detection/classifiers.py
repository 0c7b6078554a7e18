"""Calibrated classifiers for the ``cls_predictor_cfg`` of mmdet's bbox heads."""

from __future__ import annotations

from functools import cache
from typing import Any, Optional

from mmdet.registry import MODELS
from torch import nn

from ..calibration import CosineLinear, ScoreLayout, calibrate_layer, convert_released_keys
from ..engine import derive

MODELS.register_module(module=CosineLinear)


class CalibratedClassifierMixin:
    """A classification layer that a config names, and that calibrates its scores once it is built.

    Mixed in before the layer's class.

    Args:
        in_features: Number of channels F.
        out_features: Number of scores, the background's last.
        num_classes: Number of foreground classes C. Default: None, ``out_features - 1``.
        kwargs: Other arguments of the layer.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_classes: Optional[int] = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_features, out_features, **kwargs)
        num_classes = out_features - 1 if num_classes is None else num_classes
        calibrate_layer(self, ScoreLayout(num_classes, after=out_features - num_classes))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        convert_released_keys(state_dict, prefix, formula='interpolation')
        super()._load_from_state_dict(state_dict, prefix, *args)


@cache
def calibrated_classifier(classifier: type) -> type:
    """The calibrated class of a classifier, registered in mmdet as ``DisAlign<classifier>``.

    Args:
        classifier: An ``nn.Linear``, or a subclass that is built with ``in_features`` and
            ``out_features``.
    """
    if issubclass(classifier, CalibratedClassifierMixin):
        return classifier
    return derive(classifier, CalibratedClassifierMixin, MODELS)


DisAlignLinear = calibrated_classifier(nn.Linear)
DisAlignCosineLinear = calibrated_classifier(CosineLinear)
