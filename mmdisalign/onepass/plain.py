"""Second-stage methods for any classifier: on arrays, without OpenMMLab."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Union

import numpy as np
import torch
from torch import Tensor, nn

from ..calibration import ClassPrior, PriorLike, ZeroCount, generalized_reweight
from .fitted_loss import FittedLoss
from .fitting import Samples
from .methods import Problem, method_named

Array = Union[np.ndarray, Tensor]


@dataclass(frozen=True)
class Fitted:
    """A method that is fitted: scores of features and of the scores that a classifier made.

    Attributes:
        method: Its name.
        value: Of its one number, see ``PARAMETER`` in the module of the method.
        scores: What makes the scores, an ``nn.Module`` called with logits and features.
    """

    method: str
    value: float
    scores: nn.Module

    @torch.no_grad()
    def __call__(self, features: Array, logits: Array) -> Array:
        """Scores, shape (N, C), of features (N, F) and logits (N, C), as the logits' kind of array.

        A background's score, behind the classes', is one more.
        """
        z, x = (torch.as_tensor(values).float() for values in (logits, features))
        own = self.scores.num_classes if hasattr(self.scores, 'num_classes') else z.shape[1]
        scores = torch.cat([self.scores(z[:, :own], x), z[:, own:]], dim=1)
        return scores if isinstance(logits, Tensor) else scores.numpy()

    def folded(
        self, weight: Array, bias: Optional[Array] = None
    ) -> tuple[Tensor, Optional[Tensor]]:
        """Weight and bias of the linear classifier that makes the scores at once.

        Args:
            weight: Of the classifier that made the logits, shape (C, F).
            bias: Shape (C,), or None.

        Raises:
            ValueError: If no linear classifier does: σ(x) of DisAlign varies.
        """
        if not hasattr(self.scores, 'folded'):
            raise ValueError(
                f'{self.method} does not fold into a linear classifier, for its σ(x) varies with '
                'the input; disalign-constant does'
            )
        with torch.no_grad():
            own = None if bias is None else torch.as_tensor(bias)
            return self.scores.folded(torch.as_tensor(weight), own)


def fit(
    features: Array,
    logits: Array,
    labels: Array,
    prior: PriorLike,
    method: str = 'disalign',
    value: Optional[float] = None,
    *,
    weight: Optional[Array] = None,
    bias: Optional[Array] = None,
    zero_count: ZeroCount = None,
    weight_decay: float = 5e-4,
    seed: int = 0,
) -> Fitted:
    """Fit a second-stage method to what a classifier saw and said.

    Args:
        features: What its last layer saw, shape (N, F).
        logits: What it said, shape (N, C), or (N, C + 1) with the score of a background at the end.
        labels: What it should have said, shape (N,); C is the background.
        prior: Class frequencies of the training data: anything that ``ClassPrior.build`` takes.
        method: One of :func:`method_names`. Default: ``'disalign'``.
        value: Of the method's one number. Default: None, the first of its ``VALUES``.
        weight: Of the last layer, shape (C, F), which some methods change. Default: None.
        bias: Of the last layer, shape (C,). Default: None.
        zero_count: How to weigh classes that were never seen, see :func:`generalized_reweight`.
        weight_decay: Of what is learned, unless it is the method's number.
        seed: Of what starts at random.

    Raises:
        ValueError: If the shapes do not fit, a label is of no class, or the method has no meaning
            here.
    """
    x, z, y = (_array(values) for values in (features, logits, labels))
    classes = ClassPrior.build(prior)
    _check(x, z, y, len(classes))
    own = generalized_reweight(classes, 0.0, zero_count=zero_count)
    ones = torch.cat([own, torch.ones(z.shape[1] - len(classes))])
    samples = Samples(
        features=x[:, None],
        logits=z[:, None],
        taps=np.ones((len(y), 1), np.float32),
        label=y,
        weight=np.ones(len(y)),
        image=np.arange(len(y)),
    )
    module = method_named(method)
    value = module.VALUES[0] if value is None else value
    problem = Problem(
        samples,
        FittedLoss(classes, 0.0, ones, 'class_weight'),
        weight=None if weight is None else torch.as_tensor(weight),
        bias=None if bias is None else torch.as_tensor(bias),
        zero_count=zero_count,
        weight_decay=weight_decay,
        seed=seed,
    )
    return Fitted(method, value, module.fit(problem, value))


def _array(values: Array) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _check(features: np.ndarray, logits: np.ndarray, labels: np.ndarray, classes: int) -> None:
    """Raise ValueError if the arrays do not fit each other and the prior."""
    shapes = {'features': features.shape, 'logits': logits.shape, 'labels': labels.shape}
    told = ', '.join(f'{name} {shape}' for name, shape in shapes.items())
    if features.ndim != 2 or logits.ndim != 2 or labels.ndim != 1:
        raise ValueError(f'expected features (N, F), logits (N, C) and labels (N,), got {told}')
    if not len(features) == len(logits) == len(labels) > 0:
        raise ValueError(f'expected as many features as logits and labels, and some, got {told}')
    if logits.shape[1] - classes not in (0, 1):
        raise ValueError(
            f'the class prior has {classes} classes, but there are {logits.shape[1]} logits'
        )
    wrong = labels[(labels < 0) | (labels >= logits.shape[1])]
    if len(wrong):
        raise ValueError(f'label {wrong[0]} is of none of the {logits.shape[1]} logits')
