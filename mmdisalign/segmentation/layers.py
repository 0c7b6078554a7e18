"""Where mmseg's heads that do not classify through ``cls_seg`` have the layer that scores classes.

Of K-Net and Segmenter that is not a layer with a weight for each class, but what makes the scores
is a module all the same: it is calibrated with its own input as the features.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.decode_heads.knet_head import IterativeDecodeHead, KernelUpdateHead
from torch import Tensor, nn

from ..calibration import (
    AdaptiveCalibration,
    ClassPrior,
    PriorLike,
    ScoreLayout,
    ZeroCount,
    calibrate_layer,
    generalized_reweight,
    makes_new,
    mix_in,
)
from ..calibration.paths import layers_at
from ..engine import as_in_training, check_prior, refusal, trained_terms
from ..engine.derive import layers_of_base
from ..losses import reweight_loss

# By the name of the head's class; of a head that is not here, that of its nearest base. -1 is the
# last of a list.
PATHS = {
    'IterativeDecodeHead': 'kernel_update_head.-1',  # the last stage predicts
    'MaskFormerHead': 'cls_embed',  # and Mask2Former's: one for all decoder layers
    'PointHead': 'fc_seg',
    'SegmenterMaskTransformerHead': 'mask_norm',
}
REFUSED = {
    'SideAdapterCLIPHead': 'its classes are text',
    'VPDDepthHead': 'it has no classes',
}


class CalibratedScoresMixin:
    """Calibrates the scores that a module makes of features; mixed in before its class.

    For what :func:`calibrate_layer` does not take:

    - ``nn.Conv1d``: PointRend scores points, features (N, F, P) to scores (N, C, P);
    - ``nn.LayerNorm`` over the classes: Segmenter scores patches by the cosine between them and
      a token of each class, and normalises. These cosines, (N, P, C), are the features: σ sees how
      near a patch is to each class;
    - ``KernelUpdateHead``: K-Net scores a map (N, F, H, W) by a kernel of each class, which it
      makes anew for each image; the scores come first in what it returns.
    """

    calibration: AdaptiveCalibration
    makes_new = False

    def forward(self, features: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As of the module; the scores are calibrated, and what comes with them is not."""
        outputs = super().forward(features, *args, **kwargs)
        scores, *others = outputs if isinstance(outputs, tuple) else (outputs,)
        axis = -1 if isinstance(self, nn.LayerNorm) else 1
        calibrate = self.calibration.in_place if self.makes_new else self.calibration
        calibrated = calibrate(scores.movedim(axis, 1), features.movedim(axis, 1))
        calibrated = calibrated.movedim(1, axis)
        if isinstance(self, nn.Conv1d) and not torch.is_grad_enabled():
            # PointRend puts them among the scores of a map, which autocast has in half precision.
            calibrated = calibrated.to(scores.dtype)
        return (calibrated, *others) if others else calibrated


def classification_layer(head: type) -> Optional[str]:
    """The path of the layer that scores classes in a head class, or None where it is not known.

    Raises:
        TypeError: If it is known that there is none that could be calibrated.
    """
    kinds = [kind.__name__ for kind in head.__mro__]
    known = next((kind for kind in kinds if kind in REFUSED or kind in PATHS), None)
    if known in REFUSED:
        raise refusal(head, REFUSED[known])
    return PATHS.get(known)


def calibrate_layers(
    model: nn.Module, head: nn.Module, paths: tuple[str, ...], given: bool
) -> dict[str, nn.Module]:
    """Make layers of a model such as calibrate their scores, in place.

    Args:
        model: A segmentor.
        head: Its head, which has ``num_classes``.
        paths: Where in the model they are, see :func:`layers_at`.
        given: Whether the user names them; else they are where those of the head's base are.

    Returns:
        They, by their names in the model.

    Raises:
        TypeError: If there is none, or it cannot be calibrated.
    """
    if given:
        found = dict(each for path in paths for each in layers_at(model, path))
    else:
        found = layers_of_base(head, model, paths, 'decode_head.conv_seg')
    for name, layer in found.items():
        try:
            _calibrate(layer, head.num_classes)
        except (TypeError, ValueError) as error:
            raise refusal(type(head), f'{name}: {error}') from error
    return found


def num_outputs(layer: nn.Module) -> Optional[int]:
    """How many scores a layer makes; None if it does not say."""
    if isinstance(layer, KernelUpdateHead):
        return None
    if isinstance(layer, nn.LayerNorm):
        return layer.normalized_shape[-1]
    return getattr(layer, 'out_features', getattr(layer, 'out_channels', None))


def _calibrate(layer: nn.Module, num_classes: int) -> None:
    outputs = num_outputs(layer) or num_classes
    is_plain = not isinstance(layer, (nn.Conv1d, nn.LayerNorm, KernelUpdateHead))
    if outputs - num_classes not in ((0, 1) if is_plain else (0,)):
        raise ValueError(f'{outputs} outputs are not the scores of {num_classes} classes')
    if is_plain:
        calibrate_layer(layer, ScoreLayout(num_classes, after=outputs - num_classes))
        return
    if isinstance(layer, CalibratedScoresMixin):  # under another name
        return
    if (
        isinstance(layer, KernelUpdateHead)
        and layer.feat_gather_stride > layer.mask_transform_stride
    ):
        raise ValueError('its scores are of a smaller map than its features')
    inputs = outputs if isinstance(layer, nn.LayerNorm) else layer.in_channels
    layer.makes_new = makes_new(layer.forward)
    mix_in(layer, CalibratedScoresMixin, 'Calibrated')
    layer.calibration = AdaptiveCalibration(num_classes, inputs)


def pixel_losses(head: nn.Module) -> list[nn.Module]:
    """The losses of an mmseg head that scores pixels; K-Net's are those of its first kernels."""
    losses = getattr(head, 'kernel_generate_head', head).loss_decode
    return list(losses) if isinstance(losses, nn.ModuleList) else [losses]


def weigh_classes(
    head: nn.Module, class_prior: Optional[PriorLike], exp_scale: float, zero_count: ZeroCount
) -> None:
    """Give a head that classifies masks the weights of GRW; check those of one that has them.

    The weight of an element of ``loss_cls``, a query, is multiplied by w of its label; that of no
    object stays as it is, as does what the loss is divided by.

    Args:
        head: An mmseg head, with the prior in its ``loss_decode`` already, or one with
            ``loss_cls``.
        class_prior: Class frequencies, or None, and the losses stay.
        exp_scale: ρ.
        zero_count: How to weigh classes that were never seen.

    Raises:
        TypeError: If it has no loss of classes on a softmax.
        ValueError: If the prior is of other classes.
    """
    if isinstance(head, BaseDecodeHead):
        for loss in pixel_losses(head):
            check_prior(loss, head.num_classes, 'decode head')
        return
    if class_prior is None:
        return
    prior = ClassPrior.build(class_prior)
    if len(prior) != head.num_classes:
        raise ValueError(
            f'the class prior has {len(prior)} classes, but the decode head has '
            f'num_classes={head.num_classes}'
        )
    loss = getattr(head, 'loss_cls', None)
    if not isinstance(loss, nn.Module):
        raise refusal(type(head), 'it has neither loss_decode nor loss_cls to weigh the classes in')
    if getattr(loss, 'use_sigmoid', False):
        raise refusal(type(head), f'its {type(loss).__name__} of classes is on sigmoids')
    weight = generalized_reweight(prior, exp_scale, zero_count=zero_count)
    reweight_loss(loss, weight, on_sigmoids=False)


def class_losses(
    head: nn.Module, inputs: tuple, data_samples: list, train_cfg: Any
) -> dict[str, Any]:
    """The head's own losses that its calibration can change, and what is logged beside them.

    They have a gradient while all else is frozen; masks and their losses have none.

    Args:
        head: In eval mode.
        inputs: What its forward takes, but for the ground truth.
        data_samples: Ground truth of each image.
        train_cfg: Of the model.
    """
    if isinstance(head, IterativeDecodeHead):  # its own loss is of all stages: the last predicts
        return head.kernel_generate_head.loss_by_feat(head.forward(*inputs), data_samples)
    with as_in_training(head):
        losses = head.loss(*inputs, data_samples, train_cfg)
    return trained_terms(head, losses)
