"""Read the detectors that the authors' released code trained, for mmdet.

The code is the DisAlign playground on cvpods (github.com/Megvii-BaseDetection/DisAlign and cvpods),
whose Mask R-CNN has the modules of detectron2's, so this reads checkpoints of stock detectron2 too.
Nothing but names changes, since both sides agree on the rest: classes come in order with the
background last, the box head flattens (channels, height, width), and deltas (dx, dy, dw, dh) are
weighted by 10, 10, 5, 5, which are mmdet's ``target_stds`` 0.1, 0.1, 0.2, 0.2.

The config must build the network that was trained. For the released ResNet-50, that is mmdet's
``mask-rcnn_r50-caffe_fpn_1x_coco.py`` with 1,203 or 1,230 classes: BGR pixels, mean 103.53, 116.28,
123.675 and standard deviation 1, and a ResNet with ``style='caffe'``, which strides in the 1x1
convolutions.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Optional, Union

import torch
from torch import Tensor

from ..calibration import convert_released_keys
from ..engine.checkpoint import naming_unreadable

_BOX_HEAD = 'roi_head.bbox_head'
_CLASSIFIER = f'{_BOX_HEAD}.fc_cls'
_MASK_HEAD = 'roi_head.mask_head'
_RPN = {'conv': 'rpn_conv', 'objectness_logits': 'rpn_cls', 'anchor_deltas': 'rpn_reg'}
_BOX_PREDICTOR = {'cls_score': 'fc_cls', 'bbox_pred': 'fc_reg'}
_MASK_PREDICTOR = {'deconv': 'upsample', 'predictor': 'conv_logits'}

# What a name in cvpods looks like, and what mmdet calls it. The last group is the tensor's own
# name, such as ``weight`` or ``running_mean``.
_RULES: tuple[tuple[str, Callable[[re.Match], str]], ...] = (
    (r'backbone\.bottom_up\.stem\.conv1\.(\w+)', lambda m: f'backbone.conv1.{m[1]}'),
    (r'backbone\.bottom_up\.stem\.conv1\.norm\.(\w+)', lambda m: f'backbone.bn1.{m[1]}'),
    (
        r'backbone\.bottom_up\.res(\d)\.(\d+)\.conv(\d)\.(\w+)',
        lambda m: f'backbone.layer{int(m[1]) - 1}.{m[2]}.conv{m[3]}.{m[4]}',
    ),
    (
        r'backbone\.bottom_up\.res(\d)\.(\d+)\.conv(\d)\.norm\.(\w+)',
        lambda m: f'backbone.layer{int(m[1]) - 1}.{m[2]}.bn{m[3]}.{m[4]}',
    ),
    (
        r'backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut\.(\w+)',
        lambda m: f'backbone.layer{int(m[1]) - 1}.{m[2]}.downsample.0.{m[3]}',
    ),
    (
        r'backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut\.norm\.(\w+)',
        lambda m: f'backbone.layer{int(m[1]) - 1}.{m[2]}.downsample.1.{m[3]}',
    ),
    (
        r'backbone\.fpn_lateral(\d)\.(\w+)',
        lambda m: f'neck.lateral_convs.{int(m[1]) - 2}.conv.{m[2]}',
    ),
    (r'backbone\.fpn_output(\d)\.(\w+)', lambda m: f'neck.fpn_convs.{int(m[1]) - 2}.conv.{m[2]}'),
    (
        rf'proposal_generator\.rpn_head\.({"|".join(_RPN)})\.(\w+)',
        lambda m: f'rpn_head.{_RPN[m[1]]}.{m[2]}',
    ),
    (
        r'roi_heads\.box_head\.fc(\d)\.(\w+)',
        lambda m: f'{_BOX_HEAD}.shared_fcs.{int(m[1]) - 1}.{m[2]}',
    ),
    (
        rf'roi_heads\.box_predictor\.({"|".join(_BOX_PREDICTOR)})\.(\w+)',
        lambda m: f'{_BOX_HEAD}.{_BOX_PREDICTOR[m[1]]}.{m[2]}',
    ),
    # The calibration belongs to the classifier, where convert_released_keys finds it.
    (
        r'roi_heads\.box_predictor\.(logit_scale|logit_bias|confidence_layer\.\w+)',
        lambda m: f'{_CLASSIFIER}.{m[1]}',
    ),
    (
        r'roi_heads\.mask_head\.mask_fcn(\d)\.(\w+)',
        lambda m: f'{_MASK_HEAD}.convs.{int(m[1]) - 1}.conv.{m[2]}',
    ),
    (
        rf'roi_heads\.mask_head\.({"|".join(_MASK_PREDICTOR)})\.(\w+)',
        lambda m: f'{_MASK_HEAD}.{_MASK_PREDICTOR[m[1]]}.{m[2]}',
    ),
)
# mmdet computes its anchors, and does not store them.
_NOT_STORED = r'proposal_generator\.anchor_generator\.cell_anchors\.\d+'


def mmdet_name(name: str) -> Optional[str]:
    """What mmdet calls a parameter or buffer of a released detector, or None if nobody knows."""
    for pattern, rename in _RULES:
        match = re.fullmatch(pattern, name)
        if match:
            return rename(match)
    return None


def convert_released_detector(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename the state dict of a released Mask R-CNN or Faster R-CNN with ResNet and FPN.

    A calibrated classifier becomes ``roi_head.bbox_head.fc_cls`` with its submodule
    ``calibration``; a plain one loads into stock mmdet, or as stage 1 of a calibrated detector.

    Args:
        state_dict: Tensors or arrays by the names of cvpods; not changed.

    Returns:
        Tensors by the names of mmdet. Anchors, which mmdet does not store, are left out.

    Raises:
        ValueError: If there are names of another architecture, which it lists; or no classifier.
    """
    names = {name: mmdet_name(name) for name in state_dict if not re.fullmatch(_NOT_STORED, name)}
    unknown = [name for name, new_name in names.items() if new_name is None]
    if unknown:
        rest = f' and {len(unknown) - 8} more' if len(unknown) > 8 else ''
        raise ValueError(
            f'not names of a cvpods or detectron2 R-CNN with ResNet-FPN: {unknown[:8]}{rest}'
        )
    if f'{_CLASSIFIER}.weight' not in names.values():
        raise ValueError('there is no roi_heads.box_predictor.cls_score.weight: not a detector')
    converted = {new: torch.as_tensor(state_dict[name]) for name, new in names.items()}
    convert_released_keys(converted, f'{_CLASSIFIER}.', formula='interpolation')
    scale = f'{_CLASSIFIER}.scale'
    if scale in converted:  # of a cosine classifier; released with shape (1,), here a scalar
        converted[scale] = converted[scale].reshape(())
    return converted


def load_released(path: Union[str, Path], trust: bool = False) -> dict[str, Any]:
    """Read the state dict of a cvpods or detectron2 checkpoint: ``model``, or the file's content.

    Args:
        path: A ``.pth`` of ``torch.save``, or a ``.pkl`` of ``pickle``.
        trust: Read also what could run code while it is read: any ``.pkl``, and a ``.pth`` that
            holds more than tensors. Default: False.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If that takes ``trust``, or if the file cannot be read or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'there is no checkpoint {path} (seen from {Path.cwd()})')
    if path.suffix == '.pkl' and not trust:
        raise ValueError(
            f'{path} is a pickle, which can run any code when it is read; '
            'if you trust its source, say so with --trust'
        )
    with naming_unreadable(path, 'say so with --trust'):
        content = _content(path, trust)
    state_dict = content.get('model', content) if isinstance(content, Mapping) else None
    if not isinstance(state_dict, Mapping):
        raise ValueError(f'{path} holds no state dict, by itself or as "model"')
    return dict(state_dict)


def _content(path: Path, trust: bool) -> Any:
    if path.suffix == '.pkl':
        with path.open('rb') as file:
            try:
                return pickle.load(file, encoding='latin1')  # some were pickled by Python 2
            except Exception as error:  # a broken pickle raises whatever its bytes happen to call
                raise ValueError(
                    f'{path} cannot be read as a pickle: {type(error).__name__}: {error}'
                ) from error
    return torch.load(path, map_location='cpu', weights_only=not trust)
