"""Nearest class mean: a classifier of class means, by their cosine with the features."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ...calibration import LinearScores
from .problem import Problem

PARAMETER = None
LEARNS = True
VALUES = (0.0,)


def fit(problem: Problem, value: float) -> LinearScores:
    """Make the mean features of each class, of length 1, the weights of a classifier.

    Source: Kang et al., "Decoupling Representation and Classifier", ICLR 2020, section 4.1. The
    length of an image's features is the same for all of its scores, so the highest is that of the
    highest cosine. Those of a pixel are interpolated between the positions of the map, as its
    scores are. A background has no mean that says what it is, so there it has no meaning.
    """
    problem.no_background('ncm', 'a background is many things, and not near one mean')
    problem.softmax_only('ncm')
    problem.classifier('ncm')
    size, device = (problem.num_classes, problem.in_channels), problem.samples.device
    sums = torch.zeros(size, dtype=torch.float64, device=device)
    for chunk in problem.samples.chunks(problem.chosen):
        features = (chunk.features * chunk.taps[..., None]).sum(dim=1)
        sums.index_add_(0, chunk.label, features.double() * chunk.weight[:, None])
    absent = np.flatnonzero(~sums.any(dim=1).cpu().numpy())
    if len(absent):
        names = ', '.join(problem.prior.name_of(number) for number in absent)
        raise problem.refuse('ncm', f'there is no sample, so no mean, of {names}')
    return LinearScores.of(F.normalize(sums, dim=1).float()).requires_grad_(False)
