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
from PIL import ExifTags, Image
from project import run, write_stage1

from mmdisalign.analysis.unpickle import load_plain
from mmdisalign.engine import read_config

ZERO = 'train_dataloader.dataset.reduce_zero_label=True'
DATA = 'train_dataloader.dataset.data_root=nowhere'
FOREIGN = """
_base_ = ['stage1.py', __import__('mmdisalign').config_path('_base_/disalign_seg.py')]
model = dict(_base_.disalign.model, class_prior='ones.json')
load_from = 'foreign.pth'
"""
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
    (root / 'ones.json').write_text(str([1] * 12))
    (root / 'broken.py').write_text('model = dict(\n')
    (root / 'misspelt.py').write_text("_base_ = 'stage1.py'\nmodel = dict(type='EncoderDecodr')\n")
    (root / 'empty.py').write_text("default_scope = 'mmseg'\n")
    (root / 'foreign.py').write_text(FOREIGN)
    (root / 'zero.json').write_text(str([0, *range(1, 12)]))
    return root


PAIR = ['stage1.py', 'stage1.pth']
WRONG = [
    ('calibrate', ['nowhere.py', 'stage1.pth'], 'there is no nowhere.py'),
    ('calibrate', ['stage1.py', 'nowhere.pth'], 'there is no nowhere.pth'),
    ('calibrate', ['stage1.py', 'cut.pth'], 'cut.pth cannot be read as a checkpoint: it is trunc'),
    ('calibrate', ['stage1.py', 'foreign.pth'], 'foreign.pth: The checkpoint does not fit'),
    ('calibrate', [*PAIR, '--prior', 'two.json'], 'two.json: the class prior has 2'),
    ('calibrate', [*PAIR, '--prior', 'zero.json'], '--zero-count min'),
    (
        'calibrate',
        [*PAIR, '--cfg-options', 'model.decode_head.ignore_index=0', ZERO],
        'decode_head.ignore_index=0, but reduce_zero_label=True',
    ),
    ('calibrate', ['broken.py', 'stage1.pth'], 'broken.py cannot be read as a config: SyntaxError'),
    ('calibrate', [*PAIR, '--out', 'stage1.py/new.pth'], 'nothing can be written into'),
    ('train', ['foreign.py'], 'foreign.pth: The checkpoint does not fit'),
    (
        'train',
        ['stage1.py', '--cfg-options', DATA],
        'is not there: nowhere/images/training, nowhere/annotations/training',
    ),
    ('test', ['stage1.py', 'cut.pth'], 'cut.pth cannot be read as a checkpoint: it is truncated'),
    ('test', ['stage1.py', 'foreign.pth'], 'foreign.pth has no weight that EncoderDecoder has'),
    ('class_prior', ['nowhere.py'], 'there is no nowhere.py'),
    ('analyze', ['nowhere.json', 'two.json', '--out', 'page'], 'there is no nowhere.json'),
    ('analyze', ['two.json', 'zero.json', '--out', 'page'], 'two.json'),
    (
        'calibrate',
        [*PAIR, '--method', 'logit-adjustment', '--prior', 'two.json', '--value', '1'],
        'two.json: the class prior has 2',
    ),
    ('convert_released', ['cut.pth', 'new/none.pth'], 'cut.pth cannot be read as a checkpoint'),
    ('calibrate', [*PAIR, '--prior', 'stage1.pth'], 'stage1.pth cannot be read as a class prior'),
    ('test', ['misspelt.py', 'stage1.pth'], 'EncoderDecodr is not in the mmseg::model registry'),
    (
        'test',
        [*PAIR, '--cfg-options', 'test_evaluator.type=x'],
        'x is not in the mmseg::metric registry',
    ),
    ('train', ['empty.py'], 'empty.py has no model, train_dataloader'),
]


@pytest.mark.parametrize(('tool', 'arguments', 'said'), WRONG)
def test_a_wrong_use_is_a_line_or_two_and_leaves_nothing(
    repo: Path, project: Path, tool: str, arguments: list[str], said: str, monkeypatch, capfd
) -> None:
    script = str(repo / f'tools/{tool}.py')
    monkeypatch.chdir(project)
    if tool == 'calibrate' and '--out' not in arguments:
        arguments = [*arguments, '--out', 'new/none.pth']
    if tool in ('train', 'test'):
        arguments = [*arguments, '--work-dir', 'work']
    monkeypatch.setattr(sys, 'argv', [script, *arguments])
    before = set(project.rglob('*'))
    with pytest.raises(SystemExit) as end:
        runpy.run_path(script, run_name='__main__')
    assert end.value.code == 1
    lines = capfd.readouterr().err.splitlines()
    (start,) = (number for number, line in enumerate(lines) if line.startswith('error: '))
    assert said in lines[start]
    assert len(lines) - start <= 2
    made = set(project.rglob('*')) - before
    assert not [path for path in made if path.relative_to(project).parts[0] != 'work']


MISSING = {  # a use of each tool that names a file that is not there
    'analyze': 'nowhere.json nowhere.json --out page',
    'calibrate': 'nowhere.py nowhere.pth --out new.pth',
    'class_prior': 'nowhere.py',
    'convert_released': 'nowhere.pth new.pth',
    'demo': 'nowhere',
    'test': 'nowhere.py nowhere.pth',
    'train': 'nowhere.py',
}


@pytest.mark.parametrize('tool', MISSING)
@pytest.mark.parametrize('asks', ['help', 'a missing file'])
def test_what_needs_no_library_is_answered_in_a_second(
    repo: Path, tmp_path: Path, tool: str, asks: str
) -> None:
    assert {f'{name}.py' for name in MISSING} == {path.name for path in repo.glob('tools/*.py')}
    arguments = ['--help'] if asks == 'help' else MISSING[tool].split()
    code = f"import sys; sys.argv = ['x', *{arguments!r}]; import runpy\ntry:\n"
    code += f"    runpy.run_path({str(repo / f'tools/{tool}.py')!r}, run_name='__main__')\n"
    code += 'except SystemExit as end:\n'
    code += "    print(end.code, {'torch', 'numpy', 'mmengine'} & set(sys.modules))\n"
    start = time.monotonic()
    output = run(repo, tmp_path, sys.executable, '-c', code)
    assert time.monotonic() - start < 2  # a second, on a machine that does other work
    status = {'help': '0', 'a missing file': '2' if tool == 'demo' else '1'}[asks]
    assert output.splitlines()[-1] == f'{status} set()'


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
    Image.fromarray(np.full((3, 4), -1, np.int32)).save(tmp_path / 'a.tif')
    tif = dict(info, seg_map_path=str(tmp_path / 'a.tif'))
    assert 'has negative labels' in map_fault(tif, LoadAnnotations())
    Image.new('RGB', (4, 3)).save(info['seg_map_path'])
    assert 'has colours (RGB), which are no labels' in map_fault(info, LoadAnnotations())
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


def test_a_photo_that_is_turned_needs_a_map_that_is(tmp_path: Path) -> None:
    from mmseg.datasets.transforms import LoadAnnotations

    from mmdisalign.segmentation.label_maps import map_fault

    info = dict(seg_map_path=str(tmp_path / 'a.png'), img_path=str(tmp_path / 'a.jpg'))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new('RGB', (4, 3)).save(info['img_path'], exif=exif)  # read as 3 wide, 4 high
    Image.fromarray(np.ones((3, 4), np.uint8)).save(info['seg_map_path'])
    assert 'is 4 x 3 pixels, its image' in map_fault(info, LoadAnnotations())
    Image.fromarray(np.ones((4, 3), np.uint8)).save(info['seg_map_path'])
    assert map_fault(info, LoadAnnotations()) is None


def test_a_map_among_many_is_refused_when_it_is_loaded(
    repo: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('PYTHONPATH', str(project))
    # Of 88, 64 are looked at before; here one is, as of a large data set few are.
    (project / 'one.py').write_text(
        "_base_ = 'stage1.py'\ncustom_imports = dict(imports=['looks_at_one'])\n"
        'train_cfg = dict(max_iters=30)\n'
    )
    (project / 'looks_at_one.py').write_text(
        'from mmdisalign.segmentation import prepare\nprepare.__globals__["MAPS_LOOKED_AT"] = 1\n'
    )
    wrong = sorted((project / 'scenes/annotations/training').glob('*.png'))[40]
    kept = wrong.read_bytes()
    Image.fromarray(np.full((96, 96), 300, np.uint16)).save(wrong)
    options = ['one.py', '--work-dir', 'work']
    output = run(repo, project, sys.executable, repo / 'tools/train.py', *options, ok=False)
    wrong.write_bytes(kept)
    assert f'{wrong.name} has labels up to 300' in output
