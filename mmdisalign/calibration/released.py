"""Read the calibration parameters that the authors' released code wrote."""

from __future__ import annotations

from collections.abc import MutableMapping

from torch import Tensor

FORMULAS = ('interpolation', 'increment')


def convert_released_keys(
    state_dict: MutableMapping[str, Tensor],
    prefix: str = '',
    *,
    target: str = 'calibration.',
    formula: str = 'interpolation',
) -> None:
    r"""Rename the released ``logit_scale``, ``logit_bias``, ``confidence_layer.*``, in place.

    The three released forks do not agree on what ``logit_scale`` is:

    - ``'interpolation'``, in segmentation and detection:
      :math:`\sigma\,(s z + b) + (1 - \sigma)\, z`, so that :math:`\alpha = s - 1`;
    - ``'increment'``, in classification: :math:`(1 + \sigma s)\, z + \sigma b`, so that
      :math:`\alpha = s`.

    A state dict without these keys is left as it is.

    Args:
        state_dict: Changed in place.
        prefix: Where the released keys are, for instance ``'decode_head.'``.
        target: Where :class:`AdaptiveCalibration` is below ``prefix``.
        formula: ``'interpolation'`` or ``'increment'``.
    """
    if formula not in FORMULAS:
        raise ValueError(f'formula must be one of {FORMULAS}, got {formula!r}')
    scale = state_dict.pop(f'{prefix}logit_scale', None)
    if scale is not None:
        offset = 1 if formula == 'interpolation' else 0
        state_dict[f'{prefix}{target}magnitude'] = scale.flatten() - offset
    bias = state_dict.pop(f'{prefix}logit_bias', None)
    if bias is not None:
        state_dict[f'{prefix}{target}margin'] = bias.flatten()
    released = f'{prefix}confidence_layer.'
    for key in [key for key in state_dict if key.startswith(released)]:
        value = state_dict.pop(key)
        name = key[len(released) :]
        # A bare 1x1 convolution is the linear layer that AdaptiveCalibration has.
        value = value.flatten(1) if name == 'weight' else value
        state_dict[f'{prefix}{target}confidence.{name}'] = value
