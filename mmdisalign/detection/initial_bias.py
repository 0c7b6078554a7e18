"""Losses that are told which head they are in, and the bias that some want where it begins."""

from __future__ import annotations

import logging
from weakref import WeakKeyDictionary, ref

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.roi_heads.bbox_heads import SABLHead
from mmengine.logging import print_log
from torch import nn

from .layers import scoring_heads

# Of each loss that wants a bias, the module it was put into. A head builds its loss and never tells
# it of itself, and a reference in the loss would be a cycle of modules.
_OWNERS: WeakKeyDictionary[nn.Module, ref[nn.Module]] = WeakKeyDictionary()


class OfHeadMixin:
    """Mixed into a loss that depends on what it is put into: mmdet never asks, or tells, it all."""

    def belong_to(self, owner: nn.Module) -> None:
        """Called where a module gets this loss, in that module's constructor.

        Args:
            owner: The module; what its constructor sets before the loss, it has.
        """


class InitialBiasMixin(OfHeadMixin):
    """Mixed into a loss that has ``initial_bias``: a number, or None.

    mmengine initialises the parts of a head after the head's own ``init_cfg``, a loss among them,
    and before a checkpoint is loaded. Heads that initialise their classifier after that, or without
    mmengine (Sparse R-CNN's, DETR's), keep the bias that they set.
    """

    initial_bias: float | None
    for_dense_heads = False

    def belong_to(self, owner: nn.Module) -> None:
        """Remember the head; TypeError of one that takes its scores for other than they are."""
        super().belong_to(owner)
        name = type(self).__name__
        if isinstance(owner, SABLHead):
            raise TypeError(
                f'SABLHead takes its scores for those of a softmax, whatever its loss says; {name} '
                'is for the other bbox heads'
            )
        if isinstance(owner, BaseDenseHead) and not self.for_dense_heads:
            raise TypeError(
                f'{name} is for bbox heads: {type(owner).__name__} does not ask its loss for '
                'probabilities'
            )
        _OWNERS[self] = ref(owner)

    def init_weights(self) -> None:
        """Set the bias of the layers whose scores the loss is of."""
        owner = _OWNERS[self]() if self in _OWNERS else None
        if self.initial_bias is None or owner is None:
            return
        name = type(owner).__name__
        try:
            (head,) = scoring_heads(owner)
        except TypeError as error:
            print_log(f'{type(self).__name__} sets no bias: {error}', 'current', logging.WARNING)
            return
        for path, layer in head.layers.items():
            if layer.bias is None:
                text = f'{name}.{path} has no bias, of which {type(self).__name__} wants a start at'
                print_log(f'{text} {self.initial_bias:.3f}', 'current', logging.WARNING)
            else:
                nn.init.constant_(layer.bias, self.initial_bias)


def _tell(owner: nn.Module, name: str, module: nn.Module | None) -> None:
    if isinstance(module, OfHeadMixin):
        module.belong_to(owner)


torch.nn.modules.module.register_module_module_registration_hook(_tell)
