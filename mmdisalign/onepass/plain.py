"""Second-stage methods for any classifier: on arrays, without OpenMMLab."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Optional, Union

import numpy as np
import torch
from torch import Tensor, nn

from ..calibration import (
    CausalLinear,
    ClassPrior,
    PriorLike,
    VMFLinear,
    ZeroCount,
    generalized_reweight,
)
from .fitted_loss import FittedLoss
from .fitting import Samples
from .methods import Problem, Value, checked_value, layer_of_method, method_named

Array = Union[np.ndarray, Tensor]


@dataclass(frozen=True)
class Fitted:
    """A method that is fitted: scores of features and of the scores that a classifier made.

    Attributes:
        method: Its name.
        value: Its one, see ``PARAMETER`` in the module of the method.
        scores: What makes the scores, an ``nn.Module`` called with logits and features.
        num_scores: How many a classifier made of an element.
    """

    method: str
    value: Value
    scores: nn.Module
    num_scores: int

    @torch.no_grad()
    def __call__(self, features: Array, logits: Array) -> Array:
        """Scores, shape (N, C), of features (N, F) and logits (N, C), as the logits' kind of array.

        A background's score, behind the classes', is one more.
        """
        z, x = (torch.as_tensor(values).float() for values in (logits, features))
        if z.dim() != 2 or z.shape[1] != self.num_scores or len(x) != len(z):
            raise ValueError(
                f'expected logits (N, {self.num_scores}) and features of as many, got '
                f'{tuple(z.shape)} and {tuple(x.shape)}'
            )
        own, layer = self.scores.num_classes, self.scores.to(z.device)
        scores = torch.cat([layer(z[:, :own], x.to(z.device)), z[:, own:]], dim=1)
        return scores if isinstance(logits, Tensor) else scores.numpy()

    def folded(
        self, weight: Array, bias: Optional[Array] = None
    ) -> tuple[Tensor, Optional[Tensor]]:
        """Weight and bias of the linear classifier that makes the scores at once.

        Args:
            weight: Of the classifier that made the logits, shape (C, F).
            bias: Shape (C,), or None.

        Raises:
            ValueError: If no linear classifier does: σ(x) of DisAlign varies, and a method for
                another kind of classifier changes the state of that.
        """
        kind = layer_of_method(self.method)
        if kind is not None:
            raise ValueError(
                f'{self.method} is of no linear classifier: the {kind.__name__} itself loads '
                'scores.folded_into(layer), with strict=False'
            )
        if not hasattr(self.scores, 'folded'):
            raise ValueError(
                f'{self.method} does not fold into a linear classifier, for its σ(x) varies with '
                'the input; disalign-constant does'
            )
        with torch.no_grad():
            own = None if bias is None else torch.as_tensor(bias)
            weight = torch.as_tensor(weight)
            return self.scores.to(weight.device).folded(weight, own)


def fit(
    features: Array,
    logits: Array,
    labels: Array,
    prior: PriorLike,
    method: str = 'disalign',
    value: Optional[Value] = None,
    *,
    weight: Optional[Array] = None,
    bias: Optional[Array] = None,
    vmf: Optional[VMFLinear] = None,
    tde: Optional[CausalLinear] = None,
    background: bool = False,
    zero_count: ZeroCount = None,
    weight_decay: float = 5e-4,
    seed: int = 0,
) -> Fitted:
    """Fit a second-stage method to what a classifier saw and said.

    Args:
        features: What its last layer saw, shape (N, F). Of tensors, their device is where the
            method is fitted.
        logits: What it said, shape (N, C); with a background, whose score is the last, (N, C + 1).
            Multiplied, if the loss of its training has multiplied them: of LDAM or GCL, by s.
        labels: What it should have said, integers, shape (N,); C is the background. There is a
            sample of each class that the prior has.
        prior: Class frequencies of the training data: anything that ``ClassPrior.build`` takes.
        method: One of :func:`method_names`. Default: ``'disalign'``.
        value: The method's one. Default: None, the first of its ``VALUES``.
        weight: Of the last layer, shape (C, F), which some methods change. Default: None.
        bias: Of the last layer, shape (C,). Default: None.
        vmf: The last layer, if it is one. Default: None.
        tde: Likewise; the logits are those of test. Default: None.
        background: Whether there is a background. Default: False.
        zero_count: How to weigh classes that were never seen, see :func:`generalized_reweight`.
        weight_decay: Of what is learned, unless it is the method's number.
        seed: Of what starts at random.

    Raises:
        TypeError: If the labels are no integers.
        ValueError: If shapes do not fit, values are not finite, a label is of no class or a class
            without a label, the layer did not make the logits, or the method has no meaning here.
    """
    x, z, y = (_array(values) for values in (features, logits, labels))
    classes = ClassPrior.build(prior)
    _check(x, z, y, classes, background)
    layer = _checked_layer(x, z, weight, bias)
    whole = vmf if tde is None else tde
    if whole is not None:
        with torch.no_grad():
            own = torch.as_tensor(x).float().to(whole.weight.device)
            _check_made(copy.deepcopy(whole).eval()(own).cpu(), torch.as_tensor(z).float())
    own = generalized_reweight(classes, 0.0, zero_count=zero_count)
    ones = torch.cat([own, torch.ones(z.shape[1] - len(classes))])
    samples = Samples(
        features=x[:, None],
        logits=z[:, None],
        taps=np.ones((len(y), 1), np.float32),
        label=y,
        weight=np.ones(len(y)),
        image=np.arange(len(y)),
        device=features.device if isinstance(features, Tensor) else 'cpu',
    )
    module = method_named(method)
    value = checked_value(method, value)
    problem = Problem(
        samples,
        FittedLoss(classes, 0.0, ones, 'class_weight'),
        weight=layer[0],
        bias=layer[1],
        layer=whole,
        zero_count=zero_count,
        weight_decay=weight_decay,
        seed=seed,
    )
    return Fitted(method, value, module.fit(problem, value), z.shape[1])


def _array(values: Array) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _checked_layer(
    features: np.ndarray, logits: np.ndarray, weight: Optional[Array], bias: Optional[Array]
) -> tuple[Optional[Tensor], Optional[Tensor]]:
    """Weight and bias of the last layer.

    Raises:
        ValueError: If it is not what made the logits of the features.
    """
    if weight is None:
        return None, None
    w, x, z = (
        torch.as_tensor(values).detach().cpu().float() for values in (weight, features, logits)
    )
    b = None if bias is None else torch.as_tensor(bias).detach().cpu().float()
    if w.shape != (z.shape[1], x.shape[1]) or (b is not None and b.shape != z.shape[1:]):
        given = f'weight {tuple(w.shape)}' + ('' if b is None else f' and bias {tuple(b.shape)}')
        raise ValueError(
            f'the last layer has weight ({z.shape[1]}, {x.shape[1]}) and bias ({z.shape[1]},) if '
            f'it makes these logits of these features, got {given}'
        )
    _check_made(torch.nn.functional.linear(x, w, b), z)
    return w, b


def _check_made(made: Tensor, logits: Tensor) -> None:
    """Raise ValueError if what the last layer makes of the features is not the logits."""
    error = (made - logits).abs().max().item()
    # Half-precision features are off by 1e-3 of their size.
    if error > 1e-2 * max(1.0, logits.abs().max().item()):
        raise ValueError(
            f'the last layer does not make these logits of these features (off by {error:.3g}): '
            'are the features what it gets?'
        )


def _check(
    features: np.ndarray,
    logits: np.ndarray,
    labels: np.ndarray,
    prior: ClassPrior,
    background: bool,
) -> None:
    """Raise an error if the arrays do not fit each other and the prior."""
    shapes = {'features': features.shape, 'logits': logits.shape, 'labels': labels.shape}
    told = ', '.join(f'{name} {shape}' for name, shape in shapes.items())
    if features.ndim != 2 or logits.ndim != 2 or labels.ndim != 1:
        raise ValueError(f'expected features (N, F), logits (N, C) and labels (N,), got {told}')
    if not len(features) == len(logits) == len(labels) > 0:
        raise ValueError(f'expected as many features as logits and labels, and some, got {told}')
    if logits.shape[1] != len(prior) + background:
        beside = ' and a background' if background else ''
        raise ValueError(
            f'the class prior has {len(prior)} classes{beside}, but there are {logits.shape[1]} '
            'logits; of a detector, say background=True'
        )
    for name, values in (('features', features), ('logits', logits)):
        if not np.isfinite(values).all():
            raise ValueError(f'{name} are not all finite')
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f'labels are integers, got {labels.dtype}')
    wrong = labels[(labels < 0) | (labels >= logits.shape[1])]
    if len(wrong):
        raise ValueError(f'label {wrong[0]} is of none of the {logits.shape[1]} logits')
    absent = np.flatnonzero(np.bincount(labels, minlength=len(prior))[: len(prior)] == 0)
    names = [prior.name_of(number) for number in absent if prior.counts[number]]
    if names:
        raise ValueError(f'no sample of {", ".join(names)}')
