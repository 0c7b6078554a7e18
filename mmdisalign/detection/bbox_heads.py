"""Calibrated heads by name, for configs: each is its mmdet head with calibrated layers."""

from __future__ import annotations

from functools import cache
from typing import Any

from mmdet.models.roi_heads import bbox_heads as heads
from mmdet.registry import MODELS

from ..calibration import convert_released_keys
from ..engine import derive
from .layers import calibrate_head, known_base, scoring_heads, unknown


class CalibratedBBoxHeadMixin:
    """Calibrates the classification layers of a head, as a calibrated detector does with its heads.

    Mixed in before the head's class. The parameters of the head keep their names; those of the
    calibration are ``calibration.*`` of the layer: ``fc_cls.calibration.*``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        (found,) = scoring_heads(self)
        calibrate_head(found)
        self._calibrated = tuple(found.layers)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        for name in self._calibrated:
            convert_released_keys(state_dict, f'{prefix}{name}.', formula='interpolation')
        super()._load_from_state_dict(state_dict, prefix, *args)


@cache
def calibrated(head: type) -> type:
    """The calibrated class of a head class, registered in mmdet as ``DisAlign<head>``.

    Args:
        head: One whose classification layers are known, see ``PATHS`` in
            :mod:`mmdisalign.detection.layers`.

    Raises:
        TypeError: If the head is another one.
    """
    if issubclass(head, CalibratedBBoxHeadMixin):
        return head
    if known_base(head) is None:
        raise unknown(head)
    return derive(head, CalibratedBBoxHeadMixin, MODELS)


DisAlignConvFCBBoxHead = calibrated(heads.ConvFCBBoxHead)
DisAlignShared2FCBBoxHead = calibrated(heads.Shared2FCBBoxHead)
DisAlignShared4Conv1FCBBoxHead = calibrated(heads.Shared4Conv1FCBBoxHead)
