"""Put what was fitted to a classifier's scores into its weights, for the stock model to load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Optional

import torch
from torch import Tensor, nn

from ..calibration import CalibratedLayerMixin, ScoreLayout
from ..engine.confidence import calibrations_of
from .methods import foldable, layer_of_method


def linear_layers(model: nn.Module) -> Iterator[tuple[str, str, nn.Module]]:
    """The calibrated layers of a model that are linear in their input.

    Cosine and normed layers are not: no weight of theirs makes an affine change of their scores.

    Returns:
        The name of the calibration, that of the layer, and the layer, one by one.
    """
    names = {module: name for name, module in calibrations_of(model).items()}
    for name, layer in model.named_modules():
        if isinstance(layer, CalibratedLayerMixin) and _is_linear(layer):
            yield names[layer.calibration], name, layer


def classifier_of(model: nn.Module, calibration: str) -> Optional[tuple[Tensor, Optional[Tensor]]]:
    """Weight (A, F) and bias (A,) of the one linear layer that a calibration is of.

    None where it is of several, or their outputs are of several anchors: what a method learns for
    it could then not be the weights of each.
    """
    own = [layer for name, _, layer in linear_layers(model) if name == calibration]
    if len(own) != 1 or own[0].layout.anchors(len(own[0].weight)) > 1 or own[0].layout.before:
        return None
    return own[0].weight, own[0].bias


def layer_of(model: nn.Module, calibration: str) -> Optional[nn.Module]:
    """The layer that a calibration is of; None where it is of several."""
    names = {module: name for name, module in calibrations_of(model).items()}
    own = (layer for layer in model.modules() if isinstance(layer, CalibratedLayerMixin))
    found = [layer for layer in own if names[layer.calibration] == calibration]
    return found[0] if len(found) == 1 else None


def check_foldable(model: nn.Module, method: str) -> None:
    """Raise ValueError if what a method makes could not be written into a model's classifiers.

    Args:
        model: With untouched calibrations.
        method: Its name; DisAlign is written with its calibration.
    """
    linear, kind = {name for name, _, _ in linear_layers(model)}, layer_of_method(method)
    for name in calibrations_of(model) if method != 'disalign' else ():
        if kind is not None and not isinstance(layer_of(model, name), kind):
            raise ValueError(f'{method} cannot be fitted: the classifier is not a {kind.__name__}')
        if kind is None and name not in linear:
            raise ValueError(
                f'{method} is written into the weights of a linear classifier, and that of {name} '
                'is none'
            )


def folded_state(model: nn.Module, fitted: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The state of a calibrated model's stock model whose scores are the fitted ones.

    Args:
        model: With untouched calibrations.
        fitted: What makes scores, by the name of the calibration in whose place it comes.

    Raises:
        ValueError: If one does not fold, or a layer cannot take it.
    """
    state = {key: v for key, v in model.state_dict().items() if '.calibration.' not in key}
    layers = list(linear_layers(model))
    for calibration, scores in fitted.items():
        if not foldable(scores):
            raise ValueError(
                'σ(x) varies with the input, so DisAlign does not fold into a classifier: use '
                'disalign-constant, or leave --fold out'
            )
        if hasattr(scores, 'folded_into'):
            own = layer_of(model, calibration)
            prefix = next(name for name, layer in model.named_modules() if layer is own)
            state.update({f'{prefix}.{key}': v for key, v in scores.folded_into(own).items()})
            continue
        names = [name for own, name, _ in layers if own == calibration]
        if not names:
            raise ValueError(f'{calibration} is of a layer that is not linear: it cannot be folded')
        for name in names:
            layer = model.get_submodule(name)
            weight, bias = _folded(layer, layer.layout, scores.to(layer.weight.device))
            if bias is not None and f'{name}.bias' not in state:
                raise ValueError(f'{name} has no bias, which what is added to its scores needs')
            state[f'{name}.weight'] = weight
            if bias is not None:
                state[f'{name}.bias'] = bias
    return state


@torch.no_grad()
def _folded(
    layer: nn.Module, layout: ScoreLayout, scores: nn.Module
) -> tuple[Tensor, Optional[Tensor]]:
    """Weight and bias of a layer, anchor by anchor."""
    weights, biases = [], []
    sizes = [layout.size] * layout.anchors(len(layer.weight))
    of_anchors = layer.bias.split(sizes) if layer.bias is not None else [None] * len(sizes)
    for weight, bias in zip(layer.weight.split(sizes), of_anchors):
        first = None if bias is None else bias[: layout.before]
        rest = None if bias is None else bias[layout.before :]
        folded, shift = scores.folded(weight[layout.before :], rest)
        weights.append(torch.cat([weight[: layout.before], folded]))
        if shift is not None:
            first = shift.new_zeros(layout.before) if first is None else first
            biases.append(torch.cat([first, shift]))
    return torch.cat(weights), torch.cat(biases) if biases else None


@torch.no_grad()
def _is_linear(layer: nn.Module) -> bool:
    """Whether a layer's outputs, before they are calibrated, are the product with its weight."""
    weight = layer.weight
    inputs = torch.linspace(-1, 1, weight[0].numel(), device=weight.device).to(weight.dtype)
    if weight.dim() == 2:
        inputs = inputs[None]
        expected = nn.functional.linear(inputs, weight, layer.bias)
    else:
        if layer.groups > 1:
            return False
        inputs = inputs.view_as(weight[:1])
        options = layer.stride, layer.padding, layer.dilation
        expected = nn.functional.conv2d(inputs, weight, layer.bias, *options)
    own = super(CalibratedLayerMixin, layer).forward(inputs)
    return torch.allclose(own, expected, rtol=1e-4, atol=1e-5)
