"""Stage 1 as a caller of Python may have it: a config in memory, or a model that is built."""

from __future__ import annotations

from pathlib import Path
from typing import Union

from mmengine.config import Config
from torch import nn
from torch.utils.data import DataLoader

from .. import processes
from ..engine import save_model
from ..engine.configs import named
from ..files import new_folders, written_whole

Stage1 = Union[str, Path, Config, nn.Module]
# Where init_model of mmseg, init_detector of mmdet and get_model of mmpretrain leave the config.
CONFIG_OF = ('cfg', '_config')


def stage1_files(
    config: Stage1, checkpoint: Union[str, Path, None], out: Path
) -> tuple[Path, Union[str, Path]]:
    """The files of a config and a checkpoint; those in memory are written beside ``out``.

    Args:
        config: File, Config, or a model with its config, as the libraries' ``init_model``,
            ``init_detector`` and ``get_model`` make it.
        checkpoint: File or address. None: the weights that the model has.
        out: The checkpoint of the calibration.

    Raises:
        ValueError: If a model has no config, or there is no checkpoint.
    """
    if isinstance(config, (str, Path)):
        if checkpoint is None:
            raise ValueError(f'no checkpoint is given for {config}')
        return Path(config), checkpoint
    cfg = _config_of(config) if isinstance(config, nn.Module) else config
    if checkpoint is None and not isinstance(config, nn.Module):
        raise ValueError('a Config has no weights: give a checkpoint, too')
    path = out.with_name(f'{out.stem}_stage1.py')
    weights = path.with_suffix('.pth') if checkpoint is None else checkpoint
    if processes.rank() == 0:
        with new_folders(out.parent):
            with written_whole(path) as file:
                file.write_text(Config(named(dict(cfg.items()))).pretty_text, encoding='utf-8')
            if checkpoint is None:
                save_model(config, weights)
    processes.wait()
    return path, weights


def _config_of(model: nn.Module) -> Config:
    held = (getattr(model, key, None) for key in CONFIG_OF)
    found = next((each for each in held if isinstance(each, Config)), None)
    if found is None:
        raise ValueError(
            f'the {type(model).__name__} has no config in {" or ".join(CONFIG_OF)}, as '
            'init_model, init_detector and get_model leave it there: give the Config, and a '
            'checkpoint; or fit features and scores with mmdisalign.onepass.fit'
        )
    return found


def loader_config(loader: DataLoader) -> Config:
    """What a config would say of a built loader, but for how its data set is built."""
    return Config(
        dict(
            batch_size=loader.batch_size,
            num_workers=loader.num_workers,
            dataset=dict(type=type(loader.dataset).__name__),
        )
    )
