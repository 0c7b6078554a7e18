"""Nearest class mean: a classifier of class means, in the place of a trained one."""

from __future__ import annotations

import torch
from mmengine.runner import Runner
from torch import nn

from ..calibration import CosineLinear
from ..engine import iter_datasets, read_state


def load_features(model: nn.Module, checkpoint: str) -> None:
    """Load all of a checkpoint but the classifier, which need not be of the model's kind.

    Args:
        model: An mmpretrain classifier with a cosine classifier ``head.fc``.
        checkpoint: File or address.

    Raises:
        TypeError: If the model has another classifier.
        RuntimeError: If the rest does not fit; the message has the keys.
    """
    head = getattr(model, 'head', None)
    if not isinstance(getattr(head, 'fc', None), CosineLinear) or hasattr(head, 'calibration'):
        raise TypeError(
            f'ncm needs a config whose head is CosineClsHead, not {type(head).__name__}'
        )
    state = {k: v for k, v in read_state(checkpoint).items() if not k.startswith('head.fc.')}
    own = {f'head.fc.{key}': value for key, value in head.fc.state_dict().items()}
    model.load_state_dict({**state, **own})


@torch.no_grad()
def set_class_means(runner: Runner) -> None:
    """Make the class means of the training images the weights of the cosine classifier.

    The images are prepared as validation images are, and each is seen once. Only sums are held.

    Args:
        runner: Of a config with training and validation data, its model loaded.

    Raises:
        ValueError: If a class has no image.
    """
    model, loader = runner.model, runner.cfg.val_dataloader.copy()
    loader['dataset'] = runner.cfg.train_dataloader.dataset.copy()
    for dataset in iter_datasets(loader['dataset']):
        dataset['pipeline'] = runner.cfg.val_dataloader.dataset.pipeline
    weight = model.head.fc.weight
    sums, counts = torch.zeros_like(weight), weight.new_zeros(len(weight))
    model.eval()
    for batch in runner.build_dataloader(loader):
        data = model.data_preprocessor(batch, False)
        features = model.head.pre_logits(model.extract_feat(data['inputs']))
        labels = torch.cat([sample.gt_label for sample in data['data_samples']]).to(weight.device)
        sums.index_add_(0, labels, features)
        counts += torch.bincount(labels, minlength=len(counts))
    absent = (counts == 0).nonzero().flatten().tolist()
    if absent:
        raise ValueError(f'no training image, so no mean, of classes {absent}')
    weight.copy_(sums / counts[:, None])
