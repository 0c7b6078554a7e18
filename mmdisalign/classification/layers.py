"""Where mmpretrain's classifiers have the layers that score classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

from mmpretrain.models.classifiers import ImageClassifier
from torch import nn

from ..calibration import ScoreLayout, calibrate_layer
from ..calibration.paths import layers_at
from ..engine import refusal
from ..engine.derive import layers_of_base

# By the name of the head's class; of a head that is not here, that of its nearest base. `*` is each
# of a list's, -1 its last. A second path is of a head for distillation, which not all models have.
PATHS: dict[str, tuple[str, ...]] = {
    'CSRAClsHead': ('csra_heads.*.head',),
    'ConformerHead': ('conv_cls_head', 'trans_cls_head'),
    'DeiTClsHead': ('layers.head', 'layers.head_dist'),
    'EfficientFormerClsHead': ('head', 'dist_head'),
    'LeViTClsHead': ('head.linear', 'head_dist.linear'),
    'LinearClsHead': ('fc',),
    'MultiLabelLinearClsHead': ('fc',),
    'StackedLinearClsHead': ('layers.-1.fc',),
    'VigClsHead': ('fc2',),
    'VisionTransformerClsHead': ('layers.head',),
}
# Heads without a layer take scores from the backbone; by the name of the backbone's class.
WITHOUT_LAYER = ('ClsHead', 'MultiLabelClsHead')
BACKBONE_PATHS = {
    'AlexNet': 'classifier.-1',
    'InceptionV3': 'fc',
    'LeNet5': 'classifier.-1',
    'VGG': 'classifier.-1',
}
# What cannot be calibrated, and why.
REFUSED = {
    'ArcFaceClsHead': 'its scores in training depend on the label',
    'MultiTaskHead': 'it has a head for each of several tasks',
}


def known_base(head: type) -> Optional[str]:
    """The name by which a head class is in ``PATHS``; None of one without a layer of its own.

    Raises:
        TypeError: If it is not known, or known not to do.
    """
    for kind in head.__mro__:
        if kind.__name__ in REFUSED:
            raise refusal(head, REFUSED[kind.__name__])
        if kind.__name__ in PATHS:
            return kind.__name__
    if head.__name__ in WITHOUT_LAYER:
        return None
    raise refusal(
        head,
        'its classification layers are not known; name them on the model, such as '
        "calibrated_layers=['head.fc']",
    )


def head_layers(head: nn.Module) -> dict[str, nn.Module]:
    """The classification layers of a head by their names in it.

    Raises:
        TypeError: If they are not known.
    """
    known = known_base(type(head))
    if known is None:
        raise refusal(type(head), 'it has no classification layer of its own')
    first, *others = PATHS[known]
    paths = [first, *(path for path in others if hasattr(head, path.partition('.')[0]))]
    return layers_of_base(head, head, paths, 'head.fc')


def model_layers(model: ImageClassifier, given: Sequence[str] = ()) -> dict[str, nn.Module]:
    """The classification layers of a classifier by their names in it.

    Args:
        model: A classifier.
        given: Their names, of a head of one's own; ``*`` is each of a list, ``-1`` its last.

    Raises:
        TypeError: If there are none, or they are not known.
    """
    if given:
        return {name: layer for path in given for name, layer in layers_at(model, path)}
    if known_base(type(model.head)) is not None:
        return {f'head.{name}': layer for name, layer in head_layers(model.head).items()}
    backbone = model.backbone
    paths = [BACKBONE_PATHS.get(kind.__name__) for kind in type(backbone).__mro__]
    path = next(filter(None, paths), None)
    if path is None or not hasattr(backbone, path.partition('.')[0]):
        raise refusal(
            type(model.head),
            f'neither it nor its {type(backbone).__name__} has a classification layer',
        )
    return {f'backbone.{name}': layer for name, layer in layers_at(backbone, path)}


def calibrate(owner: type, layers: Mapping[str, nn.Module]) -> int:
    """Make classification layers calibrate their scores, in place; see :func:`calibrate_layer`.

    Args:
        owner: What the message calls them by.
        layers: By name. All score the same classes.

    Returns:
        The number of classes C.

    Raises:
        TypeError: If one cannot be calibrated, or they have different classes.
    """
    sizes = {
        getattr(layer, 'out_features', getattr(layer, 'out_channels', 1))
        for layer in layers.values()
    }
    if len(sizes) > 1:
        raise refusal(owner, f'its layers score {sorted(sizes)} classes')
    (classes,) = sizes
    for name, layer in layers.items():
        try:
            calibrate_layer(layer, ScoreLayout(classes))
        except (TypeError, ValueError) as error:
            raise refusal(owner, f'{name}: {error}') from error
    return classes
