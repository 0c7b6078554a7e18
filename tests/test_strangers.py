"""What strangers do wrong, or otherwise: a line or two on stderr, and nothing run from a pickle."""

from __future__ import annotations

import os
import pickle
import runpy
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from PIL import Image
from project import run, write_stage1

from mmdisalign.engine import read_config
from mmdisalign.engine.unpickle import load_plain

ZERO = 'train_dataloader.dataset.reduce_zero_label=True'
NEW_STYLE = """
from mmengine.config import read_base
from mmseg.models.segmentors import EncoderDecoder
with read_base():
    from mmdisalign.configs.disalign_seg import disalign
model = dict(type=EncoderDecoder)
"""


@pytest.fixture(scope='module')
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('strangers')
    write_stage1(root, num_train=88, num_val=1, num_workers=0)
    (root / 'cut.pth').write_bytes((root / 'stage1.pth').read_bytes()[:-2000])
    torch.save({'state_dict': {'other.weight': torch.zeros(1)}}, root / 'foreign.pth')
    (root / 'two.json').write_text('{"a": 1, "b": 2}')
    (root / 'zero.json').write_text(str([0, *range(1, 12)]))
    return root


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['nowhere.py', 'stage1.pth'], 'there is no config nowhere.py'),
        (['stage1.py', 'nowhere.pth'], 'there is no checkpoint nowhere.pth'),
        (['stage1.py', 'cut.pth'], 'cut.pth cannot be read as a checkpoint: it is truncated'),
        (['stage1.py', 'foreign.pth'], 'foreign.pth: The checkpoint does not fit'),
        (['stage1.py', 'stage1.pth', '--prior', 'two.json'], 'two.json: the class prior has 2'),
        (['stage1.py', 'stage1.pth', '--prior', 'zero.json'], '--zero-count min'),
        (
            ['stage1.py', 'stage1.pth', '--cfg-options', 'model.decode_head.ignore_index=0', ZERO],
            'decode_head.ignore_index=0, but reduce_zero_label=True',
        ),
    ],
)
def test_a_wrong_use_is_a_line_or_two_and_leaves_nothing(
    repo: Path, project: Path, arguments: list[str], said: str, monkeypatch, capfd
) -> None:
    script = str(repo / 'tools/calibrate.py')
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, 'argv', [script, *arguments, '--out', 'new/none.pth'])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(script, run_name='__main__')
    assert end.value.code == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1 and said in lines[0]
    assert not (project / 'new').exists()


def test_help_answers_in_a_second(repo: Path, tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['x', '--help']; import runpy\ntry:\n"
    code += f"    runpy.run_path({str(repo / 'tools/calibrate.py')!r}, run_name='__main__')\n"
    code += "except SystemExit:\n    print({'torch', 'numpy', 'mmengine'} & set(sys.modules))\n"
    start = time.monotonic()
    assert run(repo, tmp_path, sys.executable, '-c', code).endswith('set()\n')
    assert time.monotonic() - start < 2  # a second, on a machine that does other work


class Exploit:
    def __reduce__(self) -> tuple:
        return os.mkdir, ('ran',)


def test_a_pickle_runs_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path('bad.pkl').write_bytes(pickle.dumps([{'scores': Exploit()}]))
    with pytest.raises(ValueError, match=r'bad\.pkl is refused: it asks for posix\.mkdir'):
        load_plain('bad.pkl')
    assert not Path('ran').exists()
    found = InstanceData(scores=torch.rand(3))
    content = [dict(a=np.arange(3), b=found, c=(np.float32(1), {'x': torch.ones(2)}))]
    Path('good.pkl').write_bytes(pickle.dumps(content))
    (read,) = load_plain('good.pkl')
    assert torch.equal(read['b'].scores, found.scores) and read['c'][1]['x'].sum() == 2


def test_labels_of_16_bits_and_maps_of_other_sizes_are_refused(tmp_path: Path) -> None:
    from mmseg.datasets.transforms import LoadAnnotations

    from mmdisalign.segmentation.label_maps import map_fault

    info = dict(seg_map_path=str(tmp_path / 'a.png'), img_path=str(tmp_path / 'a.jpg'))
    Image.new('RGB', (4, 3)).save(info['img_path'])
    Image.fromarray(np.full((3, 4), 257, np.uint16)).save(info['seg_map_path'])
    assert 'labels up to 257, of which mmseg reads 8 bits, so 1' in map_fault(
        info, LoadAnnotations()
    )
    Image.fromarray(np.ones((4, 3), np.uint8)).save(info['seg_map_path'])
    assert 'is 3 x 4 pixels, its image' in map_fault(info, LoadAnnotations())
    palette = Image.fromarray(np.ones((3, 4), np.uint8), mode='P')
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(info['seg_map_path'])
    assert map_fault(info, LoadAnnotations()) is None
    assert 'palette' in map_fault(info, LoadAnnotations(imdecode_backend='cv2'))


def test_a_config_with_read_base_is_of_its_models_library(tmp_path: Path) -> None:
    (tmp_path / 'new.py').write_text(NEW_STYLE)
    cfg = read_config(tmp_path / 'new.py')
    assert cfg.default_scope == 'mmseg'
    assert '_delete_' not in str(cfg.disalign)
