"""Where the gate σ(x) of a detector closes: the objects that proposals are on, and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import mmcv
import torch
from mmdet.models.roi_heads.roi_extractors.base_roi_extractor import BaseRoIExtractor
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_overlaps
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..analysis import Picture
from ..analysis.gate import LEVELS
from ..onepass.confidence import Seen, Viewer
from .matching import MIN_IOU

MOST_BOXES = 20  # drawn in an image


class GateViewer(Viewer):
    """Of a RoI head: a proposal has the class of the object that it overlaps by an IoU of 0.5.

    Of those on no object, and of anchors, positions and queries, no class is known.
    """

    unit = 'proposals'

    def __init__(self, model: nn.Module, dataset: Any) -> None:
        super().__init__(model, dataset)
        self._rois: Optional[Tensor] = None
        extractors = [each for each in model.modules() if isinstance(each, BaseRoIExtractor)]
        self.unit = 'proposals on objects' if extractors else 'anchors, positions or queries'
        for extractor in extractors:
            extractor.register_forward_pre_hook(self._see_rois, with_kwargs=True)

    def _see_rois(self, _: nn.Module, inputs: tuple, named: dict[str, Any]) -> None:
        self._rois = named['rois'] if 'rois' in named else inputs[1]

    def begin(self, index: int, batch: Mapping[str, Any]) -> None:
        """Take the objects of the image that follows."""
        (sample,) = batch['data_samples']
        objects = [
            own
            for own in self.dataset.get_data_info(index).get('instances', ())
            if not own.get('ignore_flag') and 'bbox' in own
        ]
        device = batch['inputs'].device
        self._index, self._rois = index, None
        self._scale = torch.tensor(sample.get('scale_factor', (1, 1)), device=device).repeat(2)
        boxes = torch.tensor([own['bbox'] for own in objects], device=device).reshape(-1, 4)
        self._boxes = boxes * self._scale
        self._labels = torch.tensor([own['bbox_label'] for own in objects], device=device).long()

    def labels(self, classes: Tensor) -> Optional[Tensor]:
        """True class of each proposal, (N,); -1 of one on no object."""
        if self._rois is None or classes.dim() != 1 or len(classes) != len(self._rois):
            return None
        nothing = torch.full_like(classes, -1)
        if not len(self._boxes) or not len(classes):
            return nothing
        best = bbox_overlaps(self._rois[:, 1:].float(), self._boxes.float()).max(dim=1)
        return torch.where(best.values >= MIN_IOU, self._labels[best.indices], nothing)

    def keep(self, seen: Seen) -> Any:
        """Boxes, in the image's own size, classes and σ of the lowest on objects."""
        if seen.labels is None:
            return None
        sigma = seen.sigma.float().where(seen.labels >= 0, torch.inf)
        lowest = sigma.argsort()[:MOST_BOXES]
        lowest = lowest[sigma[lowest] < LEVELS[-1]]
        boxes = self._rois[lowest, 1:].float() / self._scale
        return self._index, *(each.cpu() for each in (boxes, seen.before[lowest], sigma[lowest]))

    def picture(self, kept: tuple[int, Tensor, Tensor, Tensor], note: str) -> Picture:
        """The image with its objects, and with the proposals that are closed most."""
        index, boxes, classes, sigma = kept
        info = self.dataset.get_data_info(index)
        image = mmcv.imread(info['img_path'], channel_order='rgb')
        objects = [own for own in info['instances'] if not own.get('ignore_flag')]
        truth = InstanceData(
            bboxes=torch.tensor([own['bbox'] for own in objects]).reshape(-1, 4),
            labels=torch.tensor([own['bbox_label'] for own in objects]).long(),
        )
        closed = InstanceData(bboxes=boxes, labels=classes, scores=sigma)
        panels = [
            ('ground truth', self._draw(image, truth)),
            (
                f'for stage 1, and σ(x) in per cent, of the lowest {len(sigma)}',
                self._draw(image, closed),
            ),
        ]
        return Picture(f'{Path(info["img_path"]).name}: {note}', panels)

    def _draw(self, image: Any, instances: InstanceData) -> Any:
        visualizer = DetLocalVisualizer()
        visualizer.dataset_meta = self.dataset.metainfo
        visualizer.add_datasample('', image, DetDataSample(gt_instances=instances), draw_pred=False)
        return visualizer.get_image()
