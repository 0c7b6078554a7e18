"""RoI heads that compute the losses of classification alone."""

from __future__ import annotations

from functools import cache
from typing import Any

from mmdet.models.roi_heads import SCNetRoIHead, TridentRoIHead
from torch import Tensor

from ..calibration import mixed
from ..engine import refusal

BRANCHES = 'its branches train together, and one of them predicts'  # TridentNet's


class CalibratedRoIHeadMixin:
    """Lets an mmdet RoI head compute its classification loss alone; mixed in before its class."""

    _classification_only = False

    @property
    def with_mask(self) -> bool:
        """Whether there is a mask head, and it is to run."""
        return super().with_mask and not self._classification_only

    @property
    def interleaved(self) -> bool:
        """HTC's option: whether the mask branch refines the boxes for the next stage.

        Where it does not run, the stages hand them on as those of a Cascade R-CNN do.
        """
        return self._interleaved and not self._classification_only

    @interleaved.setter
    def interleaved(self, interleaved: bool) -> None:
        self._interleaved = interleaved

    def classification_loss(self, *args: Any) -> dict[str, Tensor]:
        """The classification losses, by the inherited ``loss``: no mask head, no regression.

        Args:
            args: Arguments of mmdet's ``StandardRoIHead.loss``.
        """
        self._classification_only = True
        try:
            losses = self.loss(*args)
        finally:
            self._classification_only = False
        # Other losses, such as HTC's semantic one, have nothing to train.
        losses = {key: value for key, value in losses.items() if 'loss' not in key or 'cls' in key}
        # A cascade that runs out of proposals leaves its last stages without a loss, and DDP waits
        # for the gradient of every parameter.
        first = next(key for key in losses if 'loss' in key)
        losses[first] = losses[first] + sum(
            0 * p.sum() for p in self.parameters() if p.requires_grad
        )
        return losses


@cache
def calibrated_roi_head(roi_head: type) -> type:
    """The class of a RoI head that can compute its classification loss alone.

    Raises:
        TypeError: If the head cannot.
    """
    if issubclass(roi_head, CalibratedRoIHeadMixin):
        return roi_head
    if issubclass(roi_head, SCNetRoIHead):
        raise refusal(roi_head, 'it does not run without masks')
    if issubclass(roi_head, TridentRoIHead):
        raise refusal(roi_head, BRANCHES)
    return mixed(roi_head, CalibratedRoIHeadMixin, 'DisAlign')
