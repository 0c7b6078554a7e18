"""The shipped ADE20K table against itself and against the benchmark's own file."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from mmdisalign.data import table_path

REPO = Path(__file__).resolve().parents[1]
OFFICIAL = REPO.parent / 'shared' / 'data' / 'ade20k' / 'objectInfo150.txt'


@pytest.fixture(scope='module')
def rows() -> list[dict[str, str]]:
    lines = table_path('ade20k').read_text(encoding='utf-8').splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith('#')))


def test_has_the_150_classes_in_order(rows):
    names = [row['name'] for row in rows]
    assert len(names) == len(set(names)) == 150
    assert names[:3] == ['wall', 'building', 'sky'] and names[-1] == 'flag'
    assert list(rows[0]) == ['name', 'ratio', 'train_images', 'val_images']


def test_ratios_do_not_increase_and_sum_below_one(rows):
    ratios = [float(row['ratio']) for row in rows]
    assert ratios == sorted(ratios, reverse=True)
    assert 0.9 < sum(ratios) < 1  # what is missing belongs to none of the 150 classes


def test_equals_the_official_file_figure_by_figure(rows):
    if not OFFICIAL.exists():
        pytest.skip(f'the official table is not at {OFFICIAL}')
    lines = OFFICIAL.read_text(encoding='utf-8').splitlines()[1:]
    assert len(lines) == len(rows)
    official = [[field.strip() for field in line.split('\t')] for line in lines]
    assert [int(fields[0]) for fields in official] == list(range(1, 151))
    for row, (_, ratio, train, val, synonyms) in zip(rows, official):
        assert row['name'] == synonyms.split(',')[0].strip()
        assert [row['ratio'], row['train_images'], row['val_images']] == [ratio, train, val]


def test_unknown_table_is_named_with_those_that_ship():
    with pytest.raises(ValueError, match=r"'ade'.*'ade20k'"):
        table_path('ade')


def test_finding_a_table_imports_neither_pillow_nor_numpy():
    code = (
        'import sys; from mmdisalign.data import table_path; table_path("ade20k"); '
        'assert not {"PIL", "numpy"} & set(sys.modules)'
    )
    run = subprocess.run(
        [sys.executable, '-c', code], cwd=REPO, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
