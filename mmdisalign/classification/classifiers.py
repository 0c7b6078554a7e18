"""Image classifiers whose head is calibrated, or whose classifier alone is trained anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Optional

from mmengine.logging import print_log
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..calibration import (
    CalibratedLayerMixin,
    ClassPrior,
    CosineLinear,
    PriorLike,
    ZeroCount,
)
from ..engine import (
    CalibrationStageMixin,
    derive,
    refusal,
    registered_class,
    unknown_arguments,
)
from .breadcrumb import BreadcrumbClsHead
from .distilled import SelfDistilledClsHead
from .heads import (
    LWSLinearClsHead,
    ScaledLinearClsHead,
    calibrated,
    classifier_name,
    classifier_of,
)
from .layers import calibrate, known_base, model_layers
from .losses import grw_loss, scale_of
from .momentum_contrast import MoCoImageClassifier


@MODELS.register_module()
class CalibratedImageClassifier(CalibrationStageMixin, ImageClassifier):
    """An mmpretrain ``ImageClassifier`` whose second stage trains a few parameters of its head.

    Written over a stage-1 config, it makes stage 2 of it:

    - ``'calibration'``: the classification layers calibrate their scores, and that trains. The head
      becomes its calibrated class; the layers of a backbone with a classifier of its own, or those
      that are named, are changed in place, see :func:`calibrate_layer`;
    - ``'classifier'``: the head stays, and its last layer alone trains (cRT and its kin in Kang et
      al., ICLR 2020); with ``ResetClassifierHook``, from scratch. A checkpoint whose classifier is
      of another kind, cosine or linear, loads without it;
    - ``'joint'``: everything trains.

    LDAM and GCL multiply scores by s in training alone, and GRW is of the same scores. Where a
    calibration trains, whose rate and decay are of such, the classification layers make them: the
    ``scale`` of cosines, or else weight and bias, are s times those of stage 1. A classifier that
    trains without one has s in its loss.

    What does not train is frozen, in eval mode and without autograd. Mixup and CutMix
    (``train_cfg`` or the data preprocessor's ``batch_augments``) are left out then: their labels
    are no class indices.

    Args:
        head: Config of the head.
        class_prior: Frequencies of the training images: anything that ``ClassPrior.build`` takes.
            The loss gets the weights of GRW, see
            :func:`~mmdisalign.classification.losses.grw_loss`. Default: None, it stays as it is.
        exp_scale: ρ of that loss. Default: 1.2, the released value for ImageNet-LT.
        zero_count: How that loss treats classes that were never seen, see
            :func:`generalized_reweight`. Default: None, they are an error.
        stage: ``'calibration'``, ``'classifier'`` or ``'joint'``. Default: ``'calibration'``.
        calibrated_layers: Names of classification layers in the model, for a head of one's own:
            ``['head.fc']``; ``*`` is each of a list, ``-1`` its last. Default: (), the layers of
            mmpretrain's heads.
        kwargs: Arguments of ``ImageClassifier``.

    Raises:
        TypeError: If the model is not an ``ImageClassifier`` with class scores, or no layer of its
            is known.
        ValueError: If the prior is of other classes, or the loss takes none.
    """

    stages = ('calibration', 'classifier', 'joint')
    num_background = 0

    def __init__(
        self,
        *,
        head: Optional[dict] = None,
        class_prior: Optional[PriorLike] = None,
        exp_scale: float = 1.2,
        zero_count: ZeroCount = None,
        stage: str = 'calibration',
        calibrated_layers: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        kind = _checked_head(type(self), head, kwargs)
        head = dict(head)
        if stage != 'classifier' and not calibrated_layers and known_base(kind):
            kind = head['type'] = calibrated(kind)
        if stage != 'joint':
            kwargs = _without_batch_augments(kwargs)
        super().__init__(head=head, **kwargs)
        num_classes = self._find_classifier(stage, calibrated_layers)
        loss = getattr(self.head, 'loss_module', None)
        if loss is None:
            raise refusal(kind, 'it has no loss_module to weigh the classes in')
        self.class_prior, self.exp_scale = None, exp_scale
        self._multiplied: dict[str, float] = {}
        if class_prior is not None:
            self.class_prior = prior = _checked_prior(class_prior, num_classes)
            scale = scale_of(loss)
            if stage != 'classifier' and scale != 1:
                self._multiply(scale, loss, calibrated_layers)
                scale = 1.0
            self.head.loss_module = grw_loss(loss, prior, exp_scale, zero_count, scale)
        elif stage == 'calibration' and not issubclass(kind, LWSLinearClsHead):
            _check_is_grw(loss)
        self.register_load_state_dict_post_hook(_forgive_dropped_keys)  # before all are checked
        self._enter_stage(stage)

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            inputs: Images, shape (N, 3, H, W).
            data_samples: Ground truth of each image.

        Raises:
            TypeError: If the head's loss is not of the classifier that predicts.
        """
        _check_trains(type(self.head))
        self._check_loaded()
        return super().loss(inputs, data_samples)

    def _find_classifier(self, stage: str, calibrated_layers: Sequence[str]) -> int:
        """Calibrate what is to be; returns the number of classes."""
        if stage == 'classifier' or isinstance(self.head, ScaledLinearClsHead):
            if calibrated_layers:
                raise ValueError(
                    f'{type(self.head).__name__} in the stage {stage!r} has no calibrated_layers'
                )
            self.classifier_weight = f'head.{classifier_name(self.head)}.weight'
            return len(classifier_of(self.head).weight)
        layers = model_layers(self, calibrated_layers)
        self.classifier_weight = f'{next(iter(layers))}.weight'
        return calibrate(type(self.head), layers)

    def _multiply(self, scale: float, loss: nn.Module, calibrated_layers: Sequence[str]) -> None:
        """Let the classification layers make scores that are multiplied, as a loss had them."""
        if isinstance(self.head, ScaledLinearClsHead):
            layers = {f'head.{classifier_name(self.head)}': classifier_of(self.head)}
        else:
            layers = model_layers(self, calibrated_layers)
        for name, layer in layers.items():
            keys = _factors(layer)
            if not keys:
                raise refusal(
                    type(self.head),
                    f'{type(loss).__name__} multiplies its scores by {scale:g}, and its {name}, a '
                    f'{type(layer).__name__}, is neither linear nor of cosines, so it cannot do '
                    'that itself',
                )
            self._multiplied.update({f'{name}.{key}': scale for key in keys})
            if isinstance(layer, CosineLinear):  # of what else is new, the start has no size
                layer.multiply(scale)
        print_log(
            f'{", ".join(layers)} multiplies scores by {scale:g}, as {type(loss).__name__} did in '
            'stage 1.',
            'current',
        )

    def _trained(self) -> Iterator[tuple[str, nn.Module]]:
        if self.stage != 'classifier':
            yield from super()._trained()
        else:
            yield f'head.{classifier_name(self.head)}', classifier_of(self.head)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        if self.stage == 'classifier':
            _drop_other_kind(state_dict, f'{prefix}head.', self.head)
        # A checkpoint of stage 2 has what is multiplied already, as its calibration is fitted to.
        if not any(key.startswith(prefix) and '.calibration.' in key for key in state_dict):
            for key, scale in self._multiplied.items():
                if f'{prefix}{key}' in state_dict:
                    state_dict[f'{prefix}{key}'] = scale * state_dict[f'{prefix}{key}']
        self._given_keys = frozenset(state_dict)
        super()._load_from_state_dict(state_dict, prefix, *args)


@cache
def calibrated_classifier(kind: type) -> type:
    """The calibrated class of a classifier class, registered as ``Calibrated<kind>``.

    It is also an attribute of :mod:`mmdisalign.classification`, so that a config can name it. What
    a subclass of ``ImageClassifier`` does otherwise, it still does.

    Raises:
        TypeError: If it is not an ``ImageClassifier``.
    """
    if kind is ImageClassifier:
        return CalibratedImageClassifier
    if issubclass(kind, CalibratedImageClassifier):
        return kind
    if not issubclass(kind, ImageClassifier):
        raise refusal(kind, 'it is not an ImageClassifier')
    if issubclass(kind, MoCoImageClassifier):
        raise refusal(
            kind,
            'it trains on two views of an image: give a config of the same parts with '
            "model.type='ImageClassifier' and one view, which takes its checkpoint, too",
        )
    return derive(kind, CalibratedImageClassifier, MODELS, f'Calibrated{kind.__name__}')


def calibrated_model(model: Mapping[str, Any]) -> str:
    """The ``type`` of stage 2 for the config of a classifier.

    Raises:
        TypeError: If it is not an ``ImageClassifier``.
    """
    kind = registered_class(model.get('type'), MODELS)
    return f'mmdisalign.classification.{calibrated_classifier(kind).__name__}'


def _checked_head(model: type, head: Optional[Mapping], options: Mapping[str, Any]) -> type:
    """The class of a head; TypeError if the config is of another model, or there is no head."""
    unknown = unknown_arguments(model, options)
    if unknown:
        raise TypeError(
            f'an ImageClassifier can be calibrated, but it has no {", ".join(unknown)}: the model '
            'of stage 1 is of another type'
        )
    if not head:
        raise TypeError('an ImageClassifier without a head cannot be calibrated: it has no scores')
    return registered_class(head.get('type'), MODELS)


def _check_trains(kind: type) -> None:
    """Raise TypeError if a head's loss is not of the classifier that predicts."""
    if issubclass(kind, (BreadcrumbClsHead, SelfDistilledClsHead)):
        raise refusal(
            kind,
            'a second classifier is in its loss: train stage 2 by a config with '
            "head.type='LinearClsHead' and custom_hooks=[], which takes the same checkpoint, or "
            'calibrate it in one pass',
        )


def _checked_prior(prior: PriorLike, num_classes: int) -> ClassPrior:
    prior = ClassPrior.build(prior)
    if len(prior) != num_classes:
        raise ValueError(
            f'the class prior has {len(prior)} classes, but the head has num_classes={num_classes}'
        )
    return prior


def _without_batch_augments(options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a classifier without Mixup and CutMix."""
    preprocessor = options.get('data_preprocessor')
    in_preprocessor = isinstance(preprocessor, dict) and preprocessor.get('batch_augments')
    if options.get('train_cfg') or in_preprocessor:
        print_log('Mixup and CutMix are left out in stage 2.', 'current')
        options = {**options, 'train_cfg': None}
        if in_preprocessor:
            options['data_preprocessor'] = {**preprocessor, 'batch_augments': None}
    return options


def _factors(layer: nn.Module) -> tuple[str, ...]:
    """Keys of what in a layer's state its scores are proportional to; none if that is not known."""
    if isinstance(layer, CosineLinear):
        return ('scale',)
    inner = super(CalibratedLayerMixin, layer) if isinstance(layer, CalibratedLayerMixin) else layer
    linear = nn.Linear.forward, nn.Conv2d.forward
    return ('weight', 'bias') if getattr(inner.forward, '__func__', None) in linear else ()


def _forgive_dropped_keys(model: CalibratedImageClassifier, incompatible: Any) -> None:
    """What a checkpoint has is not missing if a hook drops it: Swin V2 makes its tables anew."""
    missing = incompatible.missing_keys
    missing[:] = [key for key in missing if key not in model._given_keys]


def _drop_other_kind(state_dict: dict, prefix: str, head: nn.Module) -> None:
    """Drop the classifier of a checkpoint, in place, if it is of another kind than the head's."""
    name = f'{prefix}{classifier_name(head)}.'
    own = {f'{name}{key}' for key in classifier_of(head).state_dict()}
    found = {key for key in state_dict if key.startswith(name)}
    if found - own or own - found:
        for key in found:
            del state_dict[key]


def _check_is_grw(loss: nn.Module) -> None:
    if not hasattr(loss, 'class_prior'):
        raise ValueError(
            'the calibration stage needs class frequencies: set class_prior on the model, for '
            'instance to the list file of the training images'
        )
