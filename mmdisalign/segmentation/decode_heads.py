"""Calibrated decode heads: each is its mmseg head plus one submodule, ``calibration``."""

from __future__ import annotations

from functools import cache
from types import FunctionType
from typing import Any, Optional

import torch
from mmcv.cnn import ConvModule
from mmseg.models import decode_heads as heads
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import accuracy
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from mmseg.utils import SampleList
from torch import Tensor, nn

from ..calibration import AdaptiveCalibration, convert_released_keys
from ..engine import check_prior, derive, refusal
from ..losses import GRWCrossEntropyLoss, tiled_cross_entropy


class CalibratedHeadMixin:
    """Calibrates the scores of an mmseg decode head where all of them are made: in ``cls_seg``.

    Mixed in before the head's class; the head's forward is inherited. σ(x) reads the features that
    ``cls_seg`` gets, before its dropout.

    Args:
        calibration: Options of the confidence, as in the released segmentation code, which puts
            normalisation and activation before the sigmoid: ``norm_cfg``, ``act_cfg``.
            Default: None, the paper's linear layer.

    Attributes:
        tiled_loss: Whether :meth:`calibration_loss` works in tiles; :meth:`tile_loss` sets it.
    """

    calibration: AdaptiveCalibration
    tiled_loss = False

    def __init__(self, *args: Any, calibration: Optional[dict] = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        conv_seg = getattr(self, 'conv_seg', None)
        if not isinstance(conv_seg, nn.Conv2d):
            raise refusal(type(self), 'it has no classifier conv_seg')
        if conv_seg.out_channels == 1:
            raise refusal(type(self), 'it has a single output channel, so no classes to balance')
        self.calibration = AdaptiveCalibration(
            conv_seg.out_channels,
            conv_seg.in_channels,
            confidence=_build_confidence(conv_seg.in_channels, **(calibration or {})),
        )
        for loss in self._losses():
            check_prior(loss, self.num_classes, 'decode head')

    def cls_seg(self, feat: Tensor) -> Tensor:
        """Classify each pixel: features (N, F, H, W) to calibrated scores (N, C, H, W)."""
        # A hook, or another layer than mmseg's, may keep the scores.
        is_new = type(self.conv_seg) is nn.Conv2d and not self.conv_seg._forward_hooks
        calibrate = self.calibration.in_place if is_new else self.calibration
        return calibrate(super().cls_seg(feat), feat)

    def calibration_loss(self, *inputs: Any, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Loss of the scores that the head predicts with, at the resolution of the labels.

        Not the head's own ``loss``: in the calibration stage the head is in eval mode, where some
        heads return no auxiliary outputs and others still do; all return the main scores first.
        """
        outputs = self.forward(*inputs)
        logits = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
        label = BaseDecodeHead._stack_batch_gt(self, batch_data_samples)
        if self.tiled_loss:
            return self._tiled_losses(logits, label.squeeze(1))
        logits = resize(logits, label.shape[2:], mode='bilinear', align_corners=self.align_corners)
        weight = None if self.sampler is None else self.sampler.sample(logits, label)
        label = label.squeeze(1)
        losses: dict[str, Tensor] = {}
        for loss in self._losses():
            value = loss(logits, label, weight=weight, ignore_index=self.ignore_index)
            losses[loss.loss_name] = losses.get(loss.loss_name, 0) + value
        losses['acc_seg'] = accuracy(logits, label, ignore_index=self.ignore_index)
        return losses

    def tile_loss(self) -> None:
        """Let :meth:`calibration_loss` work in tiles, with the same losses and gradients.

        The scores are calibrated before they are upsampled, in a sixteenth of the memory where the
        head works at a quarter of the labels' resolution. So what is tiled is all that follows:
        upsampling, cross-entropy and accuracy, see :func:`tiled_cross_entropy`.

        Raises:
            ValueError: If that is not defined: the message names what stands in the way.
        """
        reason = _why_not_tiled(self._losses(), self.sampler)
        if reason is not None:
            raise ValueError(f'tiled_loss {reason}, or leave tiled_loss out')
        self.tiled_loss = True

    def _tiled_losses(self, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        for loss in self._losses():
            value, correct = tiled_cross_entropy(
                logits,
                label,
                loss.class_weight,
                align_corners=self.align_corners,
                ignore_index=self.ignore_index,
                reduction=loss.reduction,
                normalizer=loss.normalizer,
            )
            value = loss.loss_weight * value
            losses[loss.loss_name] = losses.get(loss.loss_name, 0) + value
        # As mmseg's accuracy has it.
        eps = torch.finfo(torch.float32).eps
        percent = 100.0 / (int((label != self.ignore_index).sum()) + eps)
        losses['acc_seg'] = (correct.float().view(1) + eps) * percent
        return losses

    def _losses(self) -> list[nn.Module]:
        many = isinstance(self.loss_decode, nn.ModuleList)
        return list(self.loss_decode) if many else [self.loss_decode]

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        convert_released_keys(state_dict, prefix, formula='interpolation')
        super()._load_from_state_dict(state_dict, prefix, *args)


@cache
def calibrated(head: type) -> type:
    """The calibrated class of a decode head class, registered in mmseg as ``DisAlign<head>``.

    Args:
        head: A subclass of mmseg's ``BaseDecodeHead`` that classifies through ``cls_seg``.

    Raises:
        TypeError: If the head cannot be calibrated this way; the message says why.
    """
    if issubclass(head, CalibratedHeadMixin):
        return head
    reason = _why_not(head)
    if reason is not None:
        raise refusal(head, reason)
    name = 'DisAlignHamHead' if head is heads.LightHamHead else None
    return derive(head, CalibratedHeadMixin, MODELS, name)


def _why_not(head: type) -> Optional[str]:
    if not issubclass(head, BaseDecodeHead):
        return "it is not an mmseg BaseDecodeHead, so it does not classify pixels through 'cls_seg'"
    own_classes = head.__mro__[: head.__mro__.index(BaseDecodeHead)]
    if issubclass(head, heads.IterativeDecodeHead):
        return "its iterations replace another head's 'cls_seg' scores"
    if any('cls_seg' in vars(cls) for cls in own_classes):
        return "it replaces 'cls_seg' with a classifier of its own"
    functions = [
        f for cls in own_classes for f in vars(cls).values() if isinstance(f, FunctionType)
    ]
    if not any('cls_seg' in f.__code__.co_names for f in functions):
        return "its forward never calls 'cls_seg'"
    return None


def _why_not_tiled(losses: list[nn.Module], sampler: Any) -> Optional[str]:
    for loss in losses:
        # Nor a subclass, which may compute something else.
        if type(loss) is not GRWCrossEntropyLoss:
            name = type(loss).__name__
            return f'computes GRWCrossEntropyLoss, but loss_decode is {name}: replace it'
        if loss.reduction == 'none':
            return "has no loss of each pixel: set another reduction than 'none' in loss_decode"
    if sampler is not None:
        return (
            f'cannot give {type(sampler).__name__} all scores at once: leave the sampler out of '
            'decode_head'
        )
    return None


def _build_confidence(
    in_channels: int, norm_cfg: Optional[dict] = None, act_cfg: Optional[dict] = None
) -> Optional[nn.Module]:
    if norm_cfg is None and act_cfg is None:
        return None
    return ConvModule(in_channels, 1, kernel_size=1, norm_cfg=norm_cfg, act_cfg=act_cfg)


DisAlignANNHead = calibrated(heads.ANNHead)
DisAlignAPCHead = calibrated(heads.APCHead)
DisAlignASPPHead = calibrated(heads.ASPPHead)
DisAlignCCHead = calibrated(heads.CCHead)
DisAlignDAHead = calibrated(heads.DAHead)
DisAlignDDRHead = calibrated(heads.DDRHead)
DisAlignDepthwiseSeparableASPPHead = calibrated(heads.DepthwiseSeparableASPPHead)
DisAlignDepthwiseSeparableFCNHead = calibrated(heads.DepthwiseSeparableFCNHead)
DisAlignDMHead = calibrated(heads.DMHead)
DisAlignDNLHead = calibrated(heads.DNLHead)
DisAlignDPTHead = calibrated(heads.DPTHead)
DisAlignEMAHead = calibrated(heads.EMAHead)
DisAlignEncHead = calibrated(heads.EncHead)
DisAlignFCNHead = calibrated(heads.FCNHead)
DisAlignFPNHead = calibrated(heads.FPNHead)
DisAlignGCHead = calibrated(heads.GCHead)
DisAlignHamHead = calibrated(heads.LightHamHead)
DisAlignISAHead = calibrated(heads.ISAHead)
DisAlignLRASPPHead = calibrated(heads.LRASPPHead)
DisAlignNLHead = calibrated(heads.NLHead)
DisAlignOCRHead = calibrated(heads.OCRHead)
DisAlignPIDHead = calibrated(heads.PIDHead)
DisAlignPSAHead = calibrated(heads.PSAHead)
DisAlignPSPHead = calibrated(heads.PSPHead)
DisAlignSegformerHead = calibrated(heads.SegformerHead)
DisAlignSETRMLAHead = calibrated(heads.SETRMLAHead)
DisAlignSETRUPHead = calibrated(heads.SETRUPHead)
DisAlignUPerHead = calibrated(heads.UPerHead)
