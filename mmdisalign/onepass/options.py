"""What a calibration is asked for, and what it came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from torch.utils.data import DataLoader

from ..calibration import PriorLike, ZeroCount
from ..defaults import PASSES, check_asked
from ..engine import read_config
from ..engine.configs import model_config
from .choosing import BEST
from .comparison import Row
from .methods import Value, checked_value


@dataclass(frozen=True)
class Options:
    """What a calibration is asked for.

    Attributes:
        config: File of stage 1, or of ours of stage 2.
        checkpoint: File or address.
        out: Checkpoint to write; its config is written beside it.
        prior: Class frequencies. Default: None, those of a config of stage 2, else they are counted
            from the training data.
        exp_scale: ρ of DisAlign. Default: None, that of a config of stage 2, else it is chosen.
        zero_count: Weight of unseen classes, see :func:`generalized_reweight`.
        images_per_class: Pass so few images that each class is in about as many, or ``'all'``.
            Default: None, see :data:`mmdisalign.defaults.IMAGES_PER_CLASS`.
        passes: How often an image is passed at most, each time with other augmentation. Default:
            None, :data:`mmdisalign.defaults.PASSES`, or 1 with ``'all'``.
        cache_size: Bytes of the samples, at most.
        cache_dir: Where samples go, and stay. Default: None, beside ``out``, and they are removed.
        seed: Of augmentation and sampling.
        cfg_options: ``KEY=VALUE`` that override the config.
        method: One of :func:`method_names`, or ``'best'`` of all on the images that choose.
            Default: ``'disalign'``.
        value: The method's one, a number or a name, instead of a choice; of DisAlign,
            ``exp_scale``.
        choose: By which images ρ, or the method and its number, are chosen: ``'val'``, those of
            ``val_dataloader``, or ``'train'``, ρ by the best balanced score of some that are held
            out of the samples. Default: None, ``'val'`` where that is possible.
        split_val: Whether half of the validation images choose, and the others report. Default:
            True.
        metric: What decides on validation images. Default: None, that of the library.
        fit_on: What is fitted to: ``'train'``, training images; ``'val'``, the validation images
            that choose, but for classes that few of them have; ``'both'``; or ``'best'`` of these.
            Default: ``'train'``.
        dataloader: Built, of the training images in the place of the config's; it needs a prior.
        fold: Whether what is fitted is to be in the weights of the stock model, and so an error
            where it cannot. Methods other than DisAlign are always written so.
    """

    config: Path
    checkpoint: str
    out: Path
    prior: Optional[PriorLike] = None
    exp_scale: Optional[float] = None
    zero_count: ZeroCount = None
    images_per_class: Union[int, str, None] = None
    passes: Optional[int] = None
    cache_size: float = 1e9
    cache_dir: Optional[Path] = None
    seed: int = 0
    cfg_options: Optional[Sequence[str]] = None
    method: str = 'disalign'
    value: Optional[Value] = None
    choose: Optional[str] = None
    split_val: bool = True
    metric: Optional[str] = None
    fit_on: str = 'train'
    dataloader: Optional[DataLoader] = None
    fold: bool = False

    def __post_init__(self) -> None:
        check_asked(
            out=Path(self.out),
            given=(self.config, self.checkpoint, self.prior),
            method=self.method,
            value=self.value,
            exp_scale=self.exp_scale,
            passes=self.passes,
        )
        changed = {'out': Path(self.out), 'cache_dir': self.cache_dir and Path(self.cache_dir)}
        if self.method != BEST:
            for name in ('value', 'exp_scale'):  # of DisAlign, both are ρ
                own = getattr(self, name)
                checked = checked_value(self.method, own)  # also of a name that there is not
                changed[name] = None if own is None else checked
        if self.passes is None:
            changed['passes'] = 1 if self.images_per_class == 'all' else PASSES
        if self.method == 'disalign' and self.value is not None:
            changed['exp_scale'] = changed['value']
        for name, value in changed.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Result:
    """What a calibration came to.

    Attributes:
        out: The checkpoint.
        config: Its config.
        method: The method that was written.
        value: Its one, see ``PARAMETER`` in its module; None if it has none.
        fit_on: What it was fitted to.
        rows: What methods came to on validation images; empty if these did not choose.
        table: The same as Markdown, or an empty string.
    """

    out: Path
    config: Path
    method: str
    value: Optional[Value]
    fit_on: str
    rows: Sequence[Row]
    table: str

    @property
    def model(self) -> torch.nn.Module:
        """The calibrated model, in eval mode, on the CPU."""
        cfg = read_config(self.config)
        init_default_scope(cfg.default_scope)
        model = MODELS.build(model_config(cfg))
        load_checkpoint(model, str(self.out), map_location='cpu')
        return model.eval()
