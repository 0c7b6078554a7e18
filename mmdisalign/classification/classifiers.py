"""Image classifiers whose head is calibrated, or whose classifier alone is trained anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Optional

import torch
from mmengine.logging import print_log
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.models.losses import CrossEntropyLoss, LabelSmoothLoss
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..calibration import PriorLike, ZeroCount
from ..engine import CalibrationStageMixin, check_adds_nothing, registered_class
from .heads import LWSLinearClsHead, calibrated, classifier_name, classifier_of

SOFTMAX_LOSSES = (CrossEntropyLoss, LabelSmoothLoss)


@MODELS.register_module()
class CalibratedImageClassifier(CalibrationStageMixin, ImageClassifier):
    """An mmpretrain ``ImageClassifier`` whose second stage trains a few parameters of its head.

    Written over a stage-1 config, it makes stage 2 of it:

    - ``'calibration'``: the head becomes its calibrated class, and the calibration trains;
    - ``'classifier'``: the head stays, and its last layer alone trains (cRT and its kin in Kang et
      al., ICLR 2020); with ``ResetClassifierHook``, from scratch. A checkpoint whose classifier is
      of another kind, cosine or linear, loads without it;
    - ``'joint'``: everything trains.

    What does not train is frozen, in eval mode and without autograd. Mixup and CutMix
    (``train_cfg`` or the data preprocessor's ``batch_augments``) are left out then: their labels
    are no class indices.

    Args:
        head: Config of the head.
        class_prior: Frequencies of the training images: anything that ``ClassPrior.build`` takes.
            The loss becomes :class:`GRWCrossEntropyLoss`, divided by the sum of the class weights
            as released, if it is ``CrossEntropyLoss`` or ``LabelSmoothLoss``; another is an error.
            Default: None, the head keeps its loss.
        exp_scale: ρ of that loss. Default: 1.2, the released value for ImageNet-LT.
        zero_count: How that loss treats classes that were never seen, see
            :func:`generalized_reweight`. Default: None, they are an error.
        stage: ``'calibration'``, ``'classifier'`` or ``'joint'``. Default: ``'calibration'``.
        kwargs: Arguments of ``ImageClassifier``.
    """

    stages = ('calibration', 'classifier', 'joint')
    num_background = 0

    def __init__(
        self,
        *,
        head: dict,
        class_prior: Optional[PriorLike] = None,
        exp_scale: float = 1.2,
        zero_count: ZeroCount = None,
        stage: str = 'calibration',
        **kwargs: Any,
    ) -> None:
        head = dict(head)
        kind = registered_class(head.get('type'), MODELS)
        if stage != 'classifier':
            kind = head['type'] = calibrated(kind)
        if class_prior is not None:
            grw = {'class_prior': class_prior, 'exp_scale': exp_scale, 'zero_count': zero_count}
            head['loss'] = _grw_loss(head.get('loss', {}), grw)
        elif stage == 'calibration' and not issubclass(kind, LWSLinearClsHead):
            _check_is_grw(head)
        if stage != 'joint':
            kwargs = _without_batch_augments(kwargs)
        super().__init__(head=head, **kwargs)
        self._enter_stage(stage)

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            inputs: Images, shape (N, 3, H, W).
            data_samples: Ground truth of each image.
        """
        self._check_loaded()
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.calibrating):
            features = self.extract_feat(inputs)
        return self.head.loss(features, data_samples)

    @property
    def classifier_weight(self) -> str:
        """Key of the classifier's weight, by its end."""
        return f'{classifier_name(self.head)}.weight'

    def _trained(self) -> Iterator[tuple[str, nn.Module]]:
        if self.stage != 'classifier':
            yield from super()._trained()
        else:
            yield f'head.{classifier_name(self.head)}', classifier_of(self.head)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        if self.stage == 'classifier':
            _drop_other_kind(state_dict, f'{prefix}head.', self.head)
        super()._load_from_state_dict(state_dict, prefix, *args)


def calibrated_model(model: Mapping[str, Any]) -> str:
    """The ``type`` of stage 2 for the config of a classifier.

    Raises:
        TypeError: If it is not an ``ImageClassifier``.
    """
    kind = registered_class(model.get('type'), MODELS)
    if not issubclass(kind, ImageClassifier):
        raise TypeError(f'{kind.__name__} cannot be calibrated: it is not an ImageClassifier')
    check_adds_nothing(kind, ImageClassifier)
    return f'mmdisalign.classification.{CalibratedImageClassifier.__name__}'


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


def _drop_other_kind(state_dict: dict, prefix: str, head: nn.Module) -> None:
    """Drop the classifier of a checkpoint, in place, if it is of another kind than the head's."""
    name = f'{prefix}{classifier_name(head)}.'
    own = {f'{name}{key}' for key in classifier_of(head).state_dict()}
    found = {key for key in state_dict if key.startswith(name)}
    if found - own or own - found:
        for key in found:
            del state_dict[key]


def _grw_loss(loss: dict, options: dict) -> dict:
    kind = registered_class(loss.get('type', 'CrossEntropyLoss'), MODELS)
    sigmoid = loss.get('use_sigmoid', False)
    if kind not in SOFTMAX_LOSSES or sigmoid:
        raise ValueError(
            f'class_prior replaces CrossEntropyLoss and LabelSmoothLoss on a softmax, but the loss '
            f'is {kind.__name__}{" on sigmoids" * sigmoid}: leave class_prior out, or put '
            'GRWCrossEntropyLoss into the head'
        )
    grw = {'type': 'GRWCrossEntropyLoss', 'normalizer': 'class_weight', **options}
    return {**grw, 'loss_weight': loss.get('loss_weight', 1.0)}


def _check_is_grw(head: dict) -> None:
    if 'class_prior' not in head.get('loss', {}):
        raise ValueError(
            'the calibration stage needs class frequencies: set class_prior on the model, for '
            'instance to the list file of the training images'
        )
