"""RoI heads, and bbox heads in them, that compute the losses of classification alone."""

from __future__ import annotations

from functools import cache
from typing import Any, Optional

from mmdet.models.roi_heads import SCNetRoIHead, TridentRoIHead
from torch import Tensor

from ..calibration import mixed
from ..engine import refusal

BRANCHES = 'its branches train together, and one of them predicts'  # TridentNet's


class ClassificationLossMixin:
    """Lets a bbox head leave box regression out of its losses; mixed in before the head's class.

    Attributes:
        classification_only: Whether it does. Default: False.
    """

    classification_only = False

    def loss(
        self, cls_score: Tensor, bbox_pred: Optional[Tensor], *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Losses of the head; arguments as of mmdet's ``BBoxHead.loss``."""
        losses = super().loss(
            cls_score, None if self.classification_only else bbox_pred, *args, **kwargs
        )
        if not any('loss_cls' in name for name in losses):  # Seesaw has two
            # mmdet has no loss without a proposal, and then no gradient for DDP to reduce.
            losses['loss_cls'] = cls_score.sum()
        return losses


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
        """Losses by the inherited ``loss``, without those of masks, which do not run.

        Args:
            args: Arguments of mmdet's ``StandardRoIHead.loss``.
        """
        self._classification_only = True
        try:
            return self.loss(*args)
        finally:
            self._classification_only = False


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
