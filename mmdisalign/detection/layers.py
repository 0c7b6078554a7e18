"""Where mmdet's heads have the layers that score classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Callable, Optional, Union

from mmdet.models.losses import GHMC, GaussianFocalLoss
from torch import nn

from ..calibration import AdaptiveCalibration, ScoreLayout, calibrate_layer
from ..calibration.paths import layers_at
from ..engine import check_prior, refusal
from ..engine.derive import layers_of_base
from ..losses import BinaryClassLoss
from .roi_heads import BRANCHES

Path = Union[str, Callable[[nn.Module], str]]


def _predicting_branch(head: nn.Module) -> str:
    """Of the branches of a Deformable DETR: that of the last decoder layer, which predicts."""
    return f'cls_branches.{-2 if head.as_two_stage else -1}'


# By the name of the head's class; of a head that is not here, that of its nearest base. `*` is each
# of a list's, -1 its last.
PATHS: dict[str, tuple[Path, ...]] = {
    'AnchorFreeHead': ('conv_cls',),
    'ATSSHead': ('atss_cls',),
    'BBoxHead': ('fc_cls',),
    'CenterNetHead': ('heatmap_head.-1',),
    'CornerHead': ('tl_heat.-1.-1.conv', 'br_heat.-1.-1.conv'),
    'DDODHead': ('atss_cls',),
    'DETRHead': ('fc_cls',),
    'DeformableDETRHead': (_predicting_branch,),
    'GARetinaHead': ('retina_cls',),
    'GFLHead': ('gfl_cls',),
    'MaskFormerHead': ('cls_embed',),
    'RepPointsHead': ('reppoints_cls_out',),
    'RetinaHead': ('retina_cls',),
    'RetinaSepBNHead': ('retina_cls',),
    'RTMDetHead': ('rtm_cls',),
    'RTMDetInsSepBNHead': ('rtm_cls.*',),
    'RTMDetSepBNHead': ('rtm_cls.*',),
    'SABLHead': ('fc_cls',),
    'SABLRetinaHead': ('retina_cls',),
    'SOLOHead': ('conv_cls',),
    'SSDHead': ('cls_convs.*.-1',),
    'TOODHead': ('tood_cls',),
    'VFNetHead': ('vfnet_cls',),
    'YOLACTHead': ('conv_cls',),
    'YOLOFHead': ('cls_score',),
    'YOLOV3Head': ('convs_pred.*',),
    'YOLOXHead': ('multi_level_conv_cls.*',),
}
# What cannot be calibrated although a base can, and why.
REFUSED = {
    'ATSSVLFusionHead': 'its classes are text',
    'AutoAssignHead': 'its loss has no label of a position, but a bag of positions for each object',
    'DDQDETRHead': 'its dense queries are chosen by other classifiers, with losses of their own',
    'EmbeddingRPNHead': 'it has no classes',
    'FreeAnchorRetinaHead': 'its loss has no label of an anchor, but a bag of anchors an object',
    'GroundingDINOHead': 'its classes are text',
    'MultiInstanceBBoxHead': 'it scores several objects of a proposal, each by its own layer',
    'RPNHead': 'it has no classes',
    'TridentRoIHead': BRANCHES,
}
# The loss of a head that is not `loss_cls`.
LOSSES = {'CenterNetHead': 'loss_center_heatmap', 'CornerHead': 'loss_heatmap'}
# Outputs of an anchor ahead of its classes: YOLOv3's box and objectness.
BEFORE = {'YOLOV3Head': 5}
ADVICE = "name its classification layers, such as calibrated_layers=['bbox_head.conv_cls']"


@dataclass(frozen=True)
class ScoringHead:
    """A head whose scores are calibrated.

    Attributes:
        name: In the model.
        head: The head.
        layers: Its classification layers by their names in the model.
        layout: Of their outputs.
    """

    name: str
    head: nn.Module
    layers: dict[str, nn.Module]
    layout: ScoreLayout

    @property
    def loss(self) -> Optional[nn.Module]:
        """The loss of its classes; None where the head computes it itself."""
        kinds = [kind.__name__ for kind in type(self.head).__mro__]
        name = next((LOSSES[kind] for kind in kinds if kind in LOSSES), 'loss_cls')
        return getattr(self.head, name, None)


def scoring_heads(model: nn.Module, given: Sequence[str] = ()) -> list[ScoringHead]:
    """The heads of a detector whose classification layers are known.

    Args:
        model: A detector, or a head alone.
        given: Names of classification layers in the model, of heads of one's own.

    Raises:
        TypeError: If there is none, or one is known not to do.
    """
    found = [_given(model, name) for name in given] or list(_known(model))
    if not found:
        raise unknown(type(model))
    return found


def known_base(head: type) -> Optional[str]:
    """The name by which a head class is in ``PATHS``; None of one whose layers are not known.

    Raises:
        TypeError: If it is known not to do.
    """
    kinds = [kind.__name__ for kind in head.__mro__]
    known = next((kind for kind in kinds if kind in REFUSED or kind in PATHS), None)
    if known in REFUSED:
        raise refusal(head, REFUSED[known])
    return known


def unknown(kind: type) -> TypeError:
    """The error for a detector, or a head, of which no classification layer is known."""
    return refusal(kind, f'no classification layer of it is known; {ADVICE}')


def calibrate_head(found: ScoringHead) -> None:
    """Make the layers of a head calibrate their scores, in place; see :func:`calibrate_layer`.

    Levels whose layers see as many channels share a calibration.

    Raises:
        TypeError: If a layer cannot be calibrated, or not with the loss of the head.
        ValueError: If that has the prior of other classes.
    """
    _check_loss(found)
    shared: dict[int, AdaptiveCalibration] = {}
    for name, layer in found.layers.items():
        channels = layer.weight.shape[1]
        try:
            calibrate_layer(layer, found.layout, shared.get(channels))
        except (TypeError, ValueError) as error:
            raise refusal(type(found.head), f'{name}: {error}') from error
        shared[channels] = layer.calibration


def _check_loss(found: ScoringHead) -> None:
    kind, loss = type(found.head), found.loss
    if isinstance(loss, GHMC):
        raise refusal(kind, 'GHMC weighs an element by how many others are alike')
    if isinstance(loss, BinaryClassLoss):
        name = type(loss).__name__
        raise refusal(kind, f'{name} weighs the terms of classes itself, so GRW has none to weigh')
    if on_sigmoids(loss) and found.layout.after:
        raise refusal(kind, f'{type(loss).__name__} on sigmoids has a background of its own')
    check_prior(loss, found.layout.num_classes, kind.__name__.removeprefix('DisAlign'))


def on_sigmoids(loss: Optional[nn.Module]) -> bool:
    """Whether a loss is of each class by itself, not of a softmax over them."""
    return getattr(loss, 'use_sigmoid', False) or isinstance(loss, GaussianFocalLoss)


def _known(model: nn.Module) -> Iterator[ScoringHead]:
    for name, head in model.named_modules():
        # A teacher is not what is trained; proposals have no classes, whatever head makes them.
        if {'rpn_head', 'teacher', 'teacher_model'} & set(name.split('.')):
            continue
        known = known_base(type(head))
        if known is not None:
            yield _scoring(name, head, _layers(head, known), BEFORE.get(known, 0))


def _layers(head: nn.Module, known: str) -> dict[str, nn.Module]:
    """The layers of a head by their names in it, where its base in ``PATHS`` has them."""
    paths = [path if isinstance(path, str) else path(head) for path in PATHS[known]]
    return layers_of_base(head, head, paths, 'bbox_head.conv_cls')


def _given(model: nn.Module, path: str) -> ScoringHead:
    layers = dict(layers_at(model, path))
    parent = path.rpartition('.')[0]
    while parent and not hasattr(model.get_submodule(parent), 'num_classes'):
        parent = parent.rpartition('.')[0]
    if not parent:
        raise TypeError(f'{path}: no module above it has num_classes, so its classes are not known')
    head = model.get_submodule(parent)
    cut = len(parent) + 1
    return _scoring(parent, head, {name[cut:]: layer for name, layer in layers.items()}, 0)


def _scoring(name: str, head: nn.Module, layers: dict[str, nn.Module], before: int) -> ScoringHead:
    for own, layer in layers.items():
        if not isinstance(layer, (nn.Linear, nn.Conv2d)):
            kind = type(layer).__name__
            reason = f'its {own} is a {kind}, not a Linear or Conv2d layer; {ADVICE}'
            raise refusal(type(head), reason)
    outputs = getattr(head, 'cls_out_channels', None)
    if outputs is None or any(isinstance(layer, nn.Linear) for layer in layers.values()):
        # Of a RoI, or a query. What SABL calls its cls_out_channels are others.
        (outputs,) = {layer.weight.shape[0] for layer in layers.values()}
    after = outputs - head.num_classes if not before else 0
    if after < 0:
        raise refusal(type(head), f'it has {outputs} scores for {head.num_classes} classes')
    layout = ScoreLayout(head.num_classes, before, after)
    prefix = f'{name}.' if name else ''  # of a head alone
    return ScoringHead(name, head, {f'{prefix}{own}': at for own, at in layers.items()}, layout)
