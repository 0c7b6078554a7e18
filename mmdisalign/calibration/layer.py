"""A classification layer that calibrates its own scores, wherever a network has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor, nn

from .adaptive import AdaptiveCalibration
from .in_place import mix_in

Calibrate = Callable[[Tensor, Tensor], Tensor]
# The scores that their layers make are a new tensor, which they do not keep; one's own may.
_LIBRARIES = ('torch', 'mmcv', 'mmdet', 'mmpretrain', 'mmseg', 'mmdisalign')


def makes_new(forward: Callable[..., Any]) -> bool:
    """Whether scores by a layer's method are known to be its caller's, who may overwrite them."""
    return getattr(forward, '__module__', '').partition('.')[0] in _LIBRARIES


@dataclass(frozen=True)
class ScoreLayout:
    """How the outputs of a classification layer are laid out: anchor by anchor, each alike.

    Attributes:
        num_classes: C foreground classes of an anchor, or of a position, query, RoI or image.
        before: Outputs of an anchor ahead of them, which pass through, such as YOLOv3's box.
        after: Outputs behind them, which pass through: a background, or no object.
    """

    num_classes: int
    before: int = 0
    after: int = 0

    @property
    def size(self) -> int:
        """Outputs of an anchor."""
        return self.before + self.num_classes + self.after

    def anchors(self, outputs: int) -> int:
        """A, of so many outputs.

        Raises:
            ValueError: If they are not some anchors'.
        """
        if outputs % self.size:
            raise ValueError(
                f'{outputs} outputs are not those of anchors with {self.num_classes} classes and '
                f'{self.before + self.after} other outputs each'
            )
        return outputs // self.size


class CalibratedLayerMixin:
    """Calibrates what a linear or convolutional layer makes, with its own input as the features.

    Mixed in before the layer's class by :func:`calibrate_layer`. One σ a position (or query, RoI,
    image) is shared by its anchors, as are α and β of a class. The layer's parameters keep their
    names; those of the calibration are ``calibration.*``. Untouched, it is the layer, bit for bit.

    Attributes:
        layout: Of its outputs.
        calibration: Of its scores.
        makes_new: Whether these are overwritten where no gradients are needed, see
            :func:`makes_new`.
    """

    layout: ScoreLayout
    calibration: AdaptiveCalibration
    makes_new = False

    def forward(self, features: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the layer makes of features (N, *, F), or (N, F, *) of a convolution."""
        outputs = super().forward(features, *args, **kwargs)
        calibrate = self.calibration.in_place if self.makes_new else self.calibration
        is_map = isinstance(self, nn.Conv2d)
        return calibrated_outputs(calibrate, outputs, features, self.layout, is_map=is_map)


def calibrated_outputs(
    calibrate: Calibrate, outputs: Tensor, features: Tensor, layout: ScoreLayout, *, is_map: bool
) -> Tensor:
    """What a layer made, its scores calibrated.

    Args:
        calibrate: Of scores (N, C, *) and features (N, F, *); perhaps in place.
        outputs: Of the layer, (N, *, A * size), or (N, A * size, *) of a convolution.
        features: Its input, (N, *, F), or (N, F, *).
        layout: Of the outputs.
        is_map: Whether the layer is a convolution.
    """
    if is_map:
        return _calibrated(calibrate, outputs, features, layout)
    rows = _calibrated(calibrate, outputs.flatten(0, -2), features.flatten(0, -2), layout)
    return rows.view_as(outputs)


def _calibrated(
    calibrate: Calibrate, outputs: Tensor, features: Tensor, layout: ScoreLayout
) -> Tensor:
    """Calibrated outputs (N, A * size, *) of features (N, F, *)."""
    by_anchor, anchors = outputs, layout.anchors(outputs.shape[1])
    if anchors > 1:  # those of a position are as positions to the calibration, (N, K, A, *)
        by_anchor = outputs.unflatten(1, (anchors, layout.size)).transpose(1, 2)
        features = features.unsqueeze(2)
    scores = by_anchor.narrow(1, layout.before, layout.num_classes)
    calibrated = calibrate(scores, features)
    if calibrated is scores:  # in place
        return outputs
    if layout.before or layout.after:
        first, last = layout.before, layout.before + layout.num_classes
        parts = by_anchor[:, :first], calibrated, by_anchor[:, last:]
        calibrated = torch.cat([part.to(calibrated.dtype) for part in parts], dim=1)
    return calibrated if anchors == 1 else calibrated.transpose(1, 2).flatten(1, 2)


def calibrate_layer(
    layer: nn.Module, layout: ScoreLayout, calibration: Optional[AdaptiveCalibration] = None
) -> nn.Module:
    """Make a classification layer one that calibrates its scores, in place.

    Args:
        layer: ``nn.Linear`` or ``nn.Conv2d``, or a subclass: cosine and normed layers.
        layout: Of its outputs.
        calibration: That of another layer of as many classes and inputs, to share it. Default:
            None, one of its own.

    Returns:
        The layer, so that what else refers to it (a head that shares it between stages) sees it.

    Raises:
        TypeError: If it is of another kind.
        ValueError: If its outputs are not laid out so, or are not at the positions of its input;
            or if it calibrates them already, laid out otherwise.
    """
    if isinstance(layer, CalibratedLayerMixin):
        if layer.layout != layout:
            raise ValueError(f'it is calibrated as {layer.layout} already, not as {layout}')
        return layer
    if not isinstance(layer, (nn.Linear, nn.Conv2d)):
        raise TypeError(
            f'a {type(layer).__name__} cannot be calibrated: it is not a Linear or Conv2d layer'
        )
    is_linear = isinstance(layer, nn.Linear)
    inputs, outputs = (
        (layer.in_features, layer.out_features)
        if is_linear
        else (layer.in_channels, layer.out_channels)
    )
    layout.anchors(outputs)
    if not is_linear:
        _check_positions(layer)
    layer.makes_new = makes_new(layer.forward)
    mix_in(layer, CalibratedLayerMixin, 'Calibrated')
    layer.layout = layout
    layer.calibration = calibration or AdaptiveCalibration(layout.num_classes, inputs)
    return layer


def hold_calibration(head: nn.Module, layer: nn.Module) -> None:
    """Let the calibration of a layer be a submodule of its head, under one name, ``calibration``.

    Checkpoints have it there since before layers were calibrated.

    Args:
        head: Becomes its owner.
        layer: Calibrated; it refers to it, but no longer as to a submodule.
    """
    head.calibration = layer.calibration
    del layer._modules['calibration']
    vars(layer)['calibration'] = head.calibration


def _check_positions(layer: nn.Conv2d) -> None:
    """Raise ValueError unless a convolution has an output at each position of its input."""
    spans = [dilation * (size - 1) for dilation, size in zip(layer.dilation, layer.kernel_size)]
    padding = layer.padding
    same = padding == 'same' or [2 * each for each in padding] == spans
    if any(stride != 1 for stride in layer.stride) or not same:
        raise ValueError(
            f'a Conv2d with kernel {layer.kernel_size}, stride {layer.stride} and padding '
            f'{layer.padding} has no score for each position of its input'
        )
