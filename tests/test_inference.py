"""The benchmark of inference: it times the heads that it says it times."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

CONFIG = 'resnet/resnet18_8xb16_cifar10.py'


@pytest.fixture
def inference(repo: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(repo / 'benchmarks'))
    import inference

    yield inference
    for name in ('inference', 'coverage', 'paired'):
        sys.modules.pop(name)


def test_a_head_is_timed_against_its_stock_head(inference: ModuleType) -> None:
    family = inference.Family('cls', CONFIG, 'head', 32, rows=9)
    folder = Path.cwd()
    cost = inference.measure(family, seconds=0.0)
    assert Path.cwd() == folder
    assert len(cost.head.base) == len(cost.head.other) == inference.PAIRS[0]
    low, middle, high = cost.head.ratio
    assert low <= middle <= high
    assert (cost.model is None) == (middle <= inference.MOST)
    assert '| ResNet | 9 rows | ' in inference._row('ResNet', family, cost)


def test_a_calibration_without_effect_is_no_measurement(
    inference: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, 'calibrations_of', lambda model: {})  # so they stay untouched
    with pytest.raises(RuntimeError, match='the calibration has no effect'):
        inference.measure(inference.Family('cls', CONFIG, 'head', 32, rows=9), seconds=0.0)


def test_the_configs_are_stock_configs(inference: ModuleType) -> None:
    for family in inference.FAMILIES.values():
        library = importlib.util.find_spec(inference.coverage.LIBS[family.lib]).origin
        assert (Path(library).parent / '.mim/configs' / family.config).is_file()
