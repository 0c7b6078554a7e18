"""Classifiers that learn from the features or the scores of others, which are frozen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmpretrain.models import heads
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..engine.checkpoint import read_state
from ..losses import cosine_distillation, score_distillation

OF = ('features', 'scores')


@MODELS.register_module()
class DistilledImageClassifier(ImageClassifier):
    """An ``ImageClassifier`` that also learns to be as its teachers are.

    Of ``'features'`` (class-balanced distillation, Iscen et al., BMVC 2021): the loss is
    :math:`(1 - a)` times the head's and :math:`a\\, b\\, (1 - \\cos)` of the features that the
    classifier sees; those of several teachers, of length 1 each, are concatenated, and the student
    has a neck that makes as many: ``dict(type='LinearNeck', in_channels=F, out_channels=K * F)``.
    Of ``'scores'`` (self-distillation, Li et al., ICCV 2021, stage III): the head's loss and
    T² KL(teacher, student); the head is a :class:`SelfDistilledClsHead`.

    Teachers see the same augmented images, in eval mode and without autograd, and are not in the
    student's checkpoints: these are of a stock ``ImageClassifier``.

    Args:
        teachers: Their configs and checkpoints, ``[dict(config=..., checkpoint=...)]``.
        distill: ``'features'`` or ``'scores'``. Default: ``'features'``.
        share: a. Default: 0.4, as released.
        factor: b. Default: 100, as released.
        temperature: T. Default: 2, as released.
        kwargs: Arguments of ``ImageClassifier``.

    Raises:
        ValueError: If there is no teacher, or several of scores.
        FileNotFoundError: If a file of a teacher is not there, when it is to teach.
    """

    def __init__(
        self,
        *,
        teachers: Sequence[dict[str, str]],
        distill: str = 'features',
        share: float = 0.4,
        factor: float = 100.0,
        temperature: float = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if distill not in OF:
            raise ValueError(f'distill must be one of {", ".join(OF)}, got {distill!r}')
        if not teachers or (distill == 'scores' and len(teachers) > 1):
            raise ValueError(f'{distill} are learned of one teacher, got {len(teachers)}')
        self.distill, self.share = distill, share
        self.factor, self.temperature = factor, temperature
        # In a list of no modules: not in the state, not of the optimiser, not DDP's. They are read
        # when they teach: who tests a student needs none.
        self._named, self._teachers = teachers, []

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            inputs: Images, shape (N, 3, H, W).
            data_samples: Ground truth of each image.
        """
        feats = self.extract_feat(inputs)
        losses = self.head.loss(feats, data_samples)
        features = self.head.pre_logits(feats)
        if self.distill == 'scores':
            (given,) = self._taught(inputs)
            scores = self.head.fc(features)
            losses['loss_distill'] = score_distillation(scores, given, self.temperature)
            return losses
        given = torch.cat([F.normalize(own) for own in self._taught(inputs)], dim=1)
        if given.shape != features.shape:
            raise ValueError(
                f'the teachers have {given.shape[1]} features, the student {features.shape[1]}: '
                "give it neck=[..., dict(type='LinearNeck', norm_cfg=None, act_cfg=dict(type="
                f"'ReLU'), out_channels={given.shape[1]})] and a head of as many in_channels"
            )
        losses = {
            key: (1 - self.share) * value if 'loss' in key else value
            for key, value in losses.items()
        }
        distance = cosine_distillation(features, given)
        losses['loss_distill'] = self.share * self.factor * distance
        return losses

    @torch.no_grad()
    def _taught(self, inputs: Tensor) -> list[Tensor]:
        """Features or scores of each teacher."""
        found = []
        self._teachers = self._teachers or [_teacher(**own) for own in self._named]
        for teacher in self._teachers:
            feats = teacher.to(inputs.device).extract_feat(inputs)
            of = teacher.head if self.distill == 'scores' else teacher.head.pre_logits
            found.append(of(feats))
        return found


def _teacher(config: str, checkpoint: str) -> nn.Module:
    for path in (config, checkpoint):
        if not Path(path).is_file():
            raise FileNotFoundError(f'the teacher has no {path}: train it first')
    model = MODELS.build(Config.fromfile(config).model)
    model.load_state_dict(read_state(checkpoint))
    return model.requires_grad_(False).eval()


@MODELS.register_module()
class SelfDistilledClsHead(heads.LinearClsHead):
    """A ``LinearClsHead`` with a second classifier, ``fc_hard``, that learns from the labels.

    The first one, which predicts, learns from a teacher's scores: see
    :class:`DistilledImageClassifier`.
    """

    def __init__(self, num_classes: int, in_channels: int, **kwargs: Any) -> None:
        super().__init__(num_classes, in_channels, **kwargs)
        self.fc_hard = nn.Linear(in_channels, num_classes)

    def loss(
        self, feats: tuple[Tensor, ...], data_samples: list[DataSample], **kwargs: Any
    ) -> dict[str, Tensor]:
        """Losses of the second classifier; arguments as of ``ClsHead``."""
        scores = self.fc_hard(self.pre_logits(feats))
        return self._get_loss(scores, data_samples, **kwargs)
