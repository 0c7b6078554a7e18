"""What ``gpu.py`` measures ours against: each in the few lines that its formula takes."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmdisalign.calibration import AdaptiveCalibration
from mmdisalign.losses import BalancedSigmoidLoss, BalancedSoftmaxLoss, GRWCrossEntropyLoss
from mmdisalign.onepass import fitting as fit


def calibrated(calibration: AdaptiveCalibration, logits: Tensor, features: Tensor) -> Tensor:
    """The formula as it is written, with a 1x1 convolution on maps."""
    logits, features = logits.float(), features.float()
    weight, bias = calibration.confidence.weight, calibration.confidence.bias
    if features.dim() == 2:
        score = F.linear(features, weight, bias)
    else:
        score = F.conv2d(features, weight[..., None, None], bias)
    shape = (1, -1, *(1,) * (logits.dim() - 2))
    sigma, magnitude = score.sigmoid(), calibration.magnitude.view(shape)
    return (1 + sigma * magnitude) * logits + sigma * calibration.margin.view(shape)


def grw(loss: GRWCrossEntropyLoss, scores: Tensor, label: Tensor) -> Tensor:
    """PyTorch's cross-entropy; the loss gives its constants, here and below."""
    options = {'weight': loss.class_weight, 'ignore_index': loss.ignore_index}
    if loss.normalizer == 'class_weight':
        return F.cross_entropy(scores.float(), label, **options)
    return F.cross_entropy(scores.float(), label, **options, reduction='sum') / label.numel()


def balanced_softmax(loss: BalancedSoftmaxLoss, scores: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of shifted scores."""
    shift = loss.log_counts.view(1, -1, *(1,) * (scores.dim() - 2))
    options = {'ignore_index': loss.ignore_index, 'reduction': 'sum'}
    return F.cross_entropy(scores.float() + shift, label, **options) / label.numel()


def balanced_sigmoid(loss: BalancedSigmoidLoss, scores: Tensor, label: Tensor) -> Tensor:
    """Binary cross-entropy of shifted scores, where no label is ignored."""
    target = F.one_hot(label, scores.shape[1]).float()
    shifted = scores.float() + loss.log_odds
    return F.binary_cross_entropy_with_logits(shifted, target, reduction='sum') / len(label)


def upsampled_loss(scores: Tensor, label: Tensor, weight: Tensor, ignored: int) -> Tensor:
    """Cross-entropy and, as mmseg counts it for its log, accuracy."""
    scores = F.interpolate(scores.float(), label.shape[1:], mode='bilinear', align_corners=False)
    options = {'ignore_index': ignored, 'reduction': 'sum'}
    loss = F.cross_entropy(scores, label, weight, **options) / label.numel()
    (scores.detach().topk(1, dim=1).indices.squeeze(1) == label).sum()
    return loss


def fitted(
    calibration: AdaptiveCalibration,
    samples: fit.Samples,
    weight: Tensor,
    total: float,
    steps: int,
) -> float:
    """Loss after a fit to all samples at once, on the calibration's device."""
    arrays = (samples.features[:, 0], samples.logits[:, 0], np.asarray(samples.label))
    features, logits, label = (torch.from_numpy(values).to(weight.device) for values in arrays)

    def closure() -> Tensor:
        optimizer.zero_grad()
        scores = calibrated(calibration, logits, features)
        loss = F.cross_entropy(scores, label, weight, reduction='sum') / total
        loss.backward()
        return loss

    optimizer = torch.optim.LBFGS(
        calibration.parameters(),
        max_iter=steps,
        max_eval=fit.MAX_EVALUATIONS,
        tolerance_grad=0.0,
        tolerance_change=fit.TOLERANCE,
        history_size=20,
        line_search_fn='strong_wolfe',
    )
    optimizer.step(closure)
    return closure().item()
