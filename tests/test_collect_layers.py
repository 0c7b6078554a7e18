"""Samples of any detector: what is fitted to is what its head would be trained with."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mmdisalign.detection.collect_layers as collect_layers
from mmdisalign.calibration import ClassPrior
from mmdisalign.detection.collect import SampleCollector
from mmdisalign.engine.confidence import calibrations_of
from mmdisalign.onepass.fitting import Samples, normalizer_of, sampled_loss
from mmdisalign.onepass.one_pass import stage2_model

# Heads whose assignment does not look at scores; the loss of the first two has labels, of the
# third labels and qualities, of the last a map.
DENSE = {
    'focal': 'retinanet/retinanet_r18_fpn_1x_coco.py',
    'levels of one layer': 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'quality focal': 'gfl/gfl_r50_fpn_1x_coco.py',
    'binary': 'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py',
}


def stage2(examination: Any, exp_scale: float) -> Any:
    """Stage 2 of a stock detector, and a batch of one image."""
    prior = ClassPrior.build(list(range(3 * examination.classes, examination.classes, -2)))
    options = stage2_model(examination.stage1, 'detection', prior, exp_scale, None)
    model = examination._built(examination.stage1, options)
    model.eval()
    data = {key: value[:1] for key, value in examination.data.items()}
    return model, data


def learn(model: Any) -> None:
    torch.manual_seed(1)
    for calibration in calibrations_of(model).values():
        with torch.no_grad():
            for parameter in calibration.parameters():
                parameter.copy_(torch.randn_like(parameter))


def of_model(model: Any, data: dict) -> Tensor:
    """Its loss of classes."""
    batch = model.data_preprocessor(copy.deepcopy(data), True)
    losses = model.loss(batch['inputs'], batch['data_samples'])
    return sum(torch.stack(v).sum() if isinstance(v, list) else v for v in losses.values())


def collected(model: Any, data: dict) -> tuple[str, Samples, Any]:
    collector = SampleCollector(model)
    with torch.no_grad():
        ((name, samples, elements),) = collector(copy.deepcopy(data), np.random.default_rng(0))
    assert list(elements) == [0]
    return name, samples, collector.losses[name]


@pytest.mark.parametrize('kind', DENSE)
def test_with_all_negatives_the_sampled_loss_is_that_of_the_head(
    examine, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(collect_layers, 'NEGATIVES', 10**9)
    model, data = stage2(examine(DENSE[kind]), 0.7)
    name, samples, loss = collected(model, data)
    assert (samples.label < 80).any()
    assert (samples.label == 80).any() or kind == 'binary'  # of positives alone
    every = np.arange(len(samples))
    total = normalizer_of('positives', samples, every, loss.class_weight, 1.0)
    learn(model)
    sampled = sampled_loss(
        calibrations_of(model)[name],
        samples.chunks(every),
        loss.class_weight,
        1.0,
        element_losses=loss.element_losses,
    )
    # YOLOv3 takes a sum; the others divide by their positives.
    divisor = 1.0 if kind == 'binary' else total
    # 2e-3: features are in half precision.
    assert sampled / divisor == pytest.approx(float(of_model(model, data)), rel=2e-3)


def test_samples_of_the_negatives_estimate_the_loss_without_bias(examine, monkeypatch) -> None:
    model, data = stage2(examine(DENSE['focal']), 0.7)
    losses = []
    for number in (10**9, *[200] * 12):
        monkeypatch.setattr(collect_layers, 'NEGATIVES', number)
        collector = SampleCollector(model)
        with torch.no_grad():
            rng = np.random.default_rng(len(losses))
            ((name, samples, _),) = collector(copy.deepcopy(data), rng)
        negative = samples.label == 80
        assert negative.sum() <= number
        every, loss = np.flatnonzero(negative), collector.losses[name]
        losses.append(
            sampled_loss(
                calibrations_of(model)[name],
                samples.chunks(every),
                loss.class_weight,
                1.0,
                element_losses=loss.element_losses,
            )
        )
    whole, *drawn = losses
    error = np.std(drawn) / len(drawn) ** 0.5
    assert abs(np.mean(drawn) - whole) < 4 * error + 1e-3 * whole


def test_queries_are_fitted_with_the_weight_of_no_object(examine, monkeypatch) -> None:
    monkeypatch.setattr(collect_layers, 'NEGATIVES', 10**9)
    # With equal weights of the classes, a DETR divides by what the weights come to.
    model, data = stage2(examine('detr/detr_r18_8xb2-500e_coco.py'), 0.0)
    name, samples, loss = collected(model, data)
    assert loss.class_weight[80] == pytest.approx(0.1)
    layers = 6  # of the decoder, each with a loss of its own
    assert len(samples) == layers * 100
    every = np.arange(len(samples))
    total = normalizer_of('class_weight', samples, every, loss.class_weight, 1.0)
    found = sampled_loss(
        calibrations_of(model)[name], samples.chunks(every), loss.class_weight, total / layers
    )
    assert found == pytest.approx(float(of_model(model, data)), rel=2e-3)
