"""Is the data where the config says it is? Asked before anything is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

ADE20K_LAYOUT = """\
ADE20K (SceneParsing, 150 classes) is expected in mmseg's layout:
  {root}
  ├── annotations
  │   ├── training      20,210 PNGs
  │   └── validation     2,000 PNGs
  └── images
      ├── training      20,210 JPEGs
      └── validation     2,000 JPEGs
Get ADEChallengeData2016.zip from http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip
and unzip it there, or name its folder with
  --cfg-options train_dataloader.dataset.data_root=DIR val_dataloader.dataset.data_root=DIR \
test_dataloader.dataset.data_root=DIR"""


def check_data(cfg: Mapping[str, Any], *splits: str) -> None:
    """Raise FileNotFoundError if a data set of the config is not on disk.

    Args:
        cfg: An OpenMMLab config.
        splits: Which of its data loaders will be used: ``'train'``, ``'val'``, ``'test'``.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        for dataset in iter_datasets(loader.get('dataset') if loader else None):
            missing = [path for path in _paths(dataset) if not path.exists()]
            if missing:
                raise FileNotFoundError(_explain(split, dataset, missing))


def check_checkpoint(path: Optional[str]) -> None:
    """Raise FileNotFoundError if a checkpoint should be on disk and is not.

    Args:
        path: What ``load_from`` says: a file, an address (``https://``, ``open-mmlab://``) or None.
    """
    if path and '://' not in path and not Path(path).is_file():
        raise FileNotFoundError(
            f'there is no checkpoint {path} (seen from {Path.cwd()}); name it with load_from in '
            'the config, or train the stage that it comes from first'
        )


def iter_datasets(dataset: Any) -> Iterator[Mapping[str, Any]]:
    """The data sets below wrappers such as RepeatDataset and ConcatDataset."""
    if not isinstance(dataset, Mapping):
        return
    inner = dataset.get('datasets', [dataset['dataset']] if 'dataset' in dataset else [])
    if not inner:
        yield dataset
    for child in inner:
        yield from iter_datasets(child)


def _paths(dataset: Mapping[str, Any]) -> Iterator[Path]:
    root = dataset.get('data_root') or ''
    names = [dataset.get('ann_file'), *(dataset.get('data_prefix') or {}).values()]
    if not root and not any(names):
        return
    for name in [n for n in names if isinstance(n, str)] or ['']:
        # Remote storage (s3://, petrel://) is its file client's affair.
        if '://' not in root and '://' not in name:
            yield Path(root) / name


def _explain(split: str, dataset: Mapping[str, Any], missing: list[Path]) -> str:
    paths = ', '.join(str(path) for path in missing)
    message = f'the {split} data ({dataset.get("type")}) is not there: {paths} (from {Path.cwd()})'
    if dataset.get('type') == 'ADE20KDataset':
        return f'{message}\n{ADE20K_LAYOUT.format(root=dataset["data_root"])}'
    return f'{message}\nLook at data_root, data_prefix and ann_file of {split}_dataloader.dataset.'
