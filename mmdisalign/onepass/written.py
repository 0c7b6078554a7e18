"""What a calibration writes: a checkpoint, its config and its class prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

import torch
from mmengine.config import Config

from ..calibration import ClassPrior
from ..defaults import methods_of, prior_of, written_beside
from ..engine import is_new_style
from ..engine.checkpoint import checkpoint_of
from ..engine.configs import named, parse_options
from ..files import check_file, where, written_whole


@dataclass(frozen=True)
class Written:
    """The files beside ``out``.

    Attributes:
        out: The checkpoint.
        base: The user's config.
        options: What overrides it, as ``KEY=VALUE``.
        changed: Keys of the config that stage 2 cannot take as they are, and what it takes.
    """

    out: Path
    base: Path
    options: Sequence[str]
    changed: Mapping[str, Any]

    @property
    def config(self) -> Path:
        """The config of the checkpoint."""
        return self.out.with_suffix('.py')

    @property
    def prior(self) -> Path:
        """The class prior that the config names."""
        return prior_of(self.out)

    @property
    def methods(self) -> Path:
        """What methods came to on validation images, where those chose."""
        return methods_of(self.out)

    @property
    def page(self) -> Path:
        """The same as a page with a picture."""
        return self.methods.with_suffix('.html')

    def check(self) -> None:
        """Say what will be written, and raise OSError if that cannot be."""
        print(
            f'Will be written: {where(self.out)}, and beside it {self.config.name}, '
            f'{self.prior.name} and, if validation images choose, {self.methods.name} and '
            f'{self.page.name}.'
        )
        for path in written_beside(self.out):
            check_file(path)

    def check_config(self, cfg: Config, changes: Mapping[str, Any]) -> None:
        """Write the config as a draft and read it: some options cannot be written so.

        Raises:
            ValueError: If it cannot be read.
        """
        draft = self.out.with_name(f'{self.out.stem}_draft.py')
        try:
            draft.write_text(self._text(cfg, changes), encoding='utf-8')
            Config.fromfile(draft)
        except Exception as error:
            raise ValueError(
                f'no config over {self.base} can be written ({error}): put --cfg-options with '
                'indices of lists into a config file'
            ) from error
        finally:
            draft.unlink(missing_ok=True)

    def write(
        self,
        state: Mapping[str, torch.Tensor],
        prior: ClassPrior,
        cfg: Config,
        changes: Mapping[str, Any],
        **meta: Any,
    ) -> None:
        """Write the prior, the config and the checkpoint, which is last: with it, all is there.

        Args:
            state: Weights of the model of the new config.
            prior: Of the training data.
            cfg: The user's config, as it was read.
            changes: What the new config changes in it.
            meta: Of the checkpoint.
        """
        # First the checkpoint, so that nothing is replaced if it has no room.
        with written_whole(self.out) as partial:
            torch.save(checkpoint_of(state, **meta), partial)
            prior.to_json(self.prior)
            with written_whole(self.config) as file:
                file.write_text(self._text(cfg, changes), encoding='utf-8')

    def _own_results(self, cfg: Config) -> dict[str, Any]:
        """Where an evaluation writes: not over what that of stage 1 has written."""
        stem, own = self.out.stem, {}
        if cfg.get('work_dir'):
            own['work_dir'] = _beside(cfg.work_dir, stem)
        for key in ('val_evaluator', 'test_evaluator'):
            given = self.changed.get(key, cfg.get(key))
            if isinstance(given, Mapping) and given.get('result_file'):
                own[f'{key}.result_file'] = _beside(given['result_file'], stem)
        return own

    def _text(self, cfg: Config, changes: Mapping[str, Any]) -> str:
        """A config that inherits the user's; of one with ``read_base``, a whole one."""
        changes = {**self._own_results(cfg), **changes}
        if is_new_style(self.base):
            own = Config(named(dict(cfg.items())))
            own.merge_from_dict(changes)
            return f'# Written by tools/calibrate.py over {self.base}.\n{own.pretty_text}'
        own = Config()
        own.merge_from_dict(parse_options(self.options))
        own.merge_from_dict(changes)
        for key, value in self.changed.items():
            merged = {'_delete_': True, **value, **own.get(key, {})}
            own[key] = merged if isinstance(value, Mapping) else value
        base = str(self.base.resolve())
        return f'# Written by tools/calibrate.py.\n_base_ = {base!r}\n{own.pretty_text}'


def _beside(path: str, stem: str) -> str:
    """The path of a file or folder with more in its name."""
    return str(Path(path).with_name(f'{Path(path).stem}_{stem}{Path(path).suffix}'))


def resolved(checkpoint: Union[str, Path, None]) -> Optional[str]:
    """The path of a checkpoint from anywhere; an address as it is."""
    path = Path(str(checkpoint))
    return str(path.resolve()) if path.is_file() else checkpoint
