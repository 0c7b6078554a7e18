"""What LVIS evaluation costs: memory on a data set of LVIS val's size, time against lvis-api.

    python benchmarks/lvis_eval.py --images 19809 --compare 1000

The annotations and detections are simulated: as many classes, images and instances as in LVIS v1
val, polygons of as many bytes, and 300 detections with masks per image, most of them around
instances. They are the same in every run.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as mask_utils

from mmdisalign.detection.lvis_reference import reference_evaluator
from mmdisalign.detection.metrics import LongTailLVISMetric

LVIS_VAL = 19_809
CLASSES = 1203
DETECTIONS = 300
HEIGHT, WIDTH = 480, 640
METRICS = ('bbox', 'segm')
# A detection of an instance is another variant of the instance's shape.
SHAPES, VARIANTS, VERTICES = 400, 8, 40
POPULARITY = 1 / np.arange(1, CLASSES + 1)
POPULARITY /= POPULARITY.sum()


def run(images: int = LVIS_VAL, compare: int = 1000, fixed_ap: bool = False) -> str:
    """Simulate and measure, each evaluation in a process of its own.

    Args:
        images: Number of images for the peak of memory.
        compare: Number of images that lvis-api evaluates, too.
        fixed_ap: Whether the first evaluation includes fixed and pooled AP.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'annotations.json'
        path.write_text(json.dumps(simulate_annotations(images)))
        large = _measure(path, 'fixed' if fixed_ap else 'ours')
        path.write_text(json.dumps(simulate_annotations(compare)))
        ours, reference = _measure(path, 'ours'), _measure(path, 'lvis-api')
    difference = max(abs(ours['AP'][metric] - reference['AP'][metric]) for metric in METRICS)
    protocol = ', with fixed and pooled AP' if fixed_ap else ''
    return (
        f'LVIS evaluation of boxes and masks{protocol}, {images} images x {DETECTIONS} detections, '
        f'{100 * large["counted"]:.0f} % of which count: {large["seconds"]:.0f} s, peak memory '
        f'{large["peak_mb"] / 1024:.2f} GB. {compare} images: {ours["seconds"]:.1f} s, lvis-api '
        f'{reference["seconds"]:.1f} s, {reference["seconds"] / ours["seconds"]:.1f} times faster; '
        f'AP differs by {difference:.0e}'
    )


def simulate_annotations(num_images: int) -> dict[str, list]:
    """LVIS v1 annotations: 12 instances of 3.4 classes per image, 10 classes that are not there."""
    rng = np.random.default_rng(0)
    polygons, boxes, _ = _shapes()
    images, annotations = [], []
    for image_id in range(1, num_images + 1):
        classes = rng.choice(CLASSES, 11 + rng.poisson(2.4), replace=False, p=POPULARITY) + 1
        present, absent = classes[10:].tolist(), classes[:10].tolist()
        image = {'id': image_id, 'height': HEIGHT, 'width': WIDTH, 'neg_category_ids': absent}
        images.append({**image, 'not_exhaustive_category_ids': present[:1] * (rng.random() < 0.2)})
        for shape in rng.choice(SHAPES, 1 + rng.poisson(11)).tolist():
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': image_id,
                    'category_id': present[rng.integers(len(present))],
                    'area': float(boxes[shape, 0, 2] * boxes[shape, 0, 3]) * 0.7,
                    'bbox': boxes[shape, 0].tolist(),
                    'segmentation': [polygons[shape]],
                    'shape': shape,
                }
            )
    categories = [
        {'id': index + 1, 'name': f'class {index}', 'frequency': 'fcr'[index * 3 // CLASSES]}
        for index in range(CLASSES)
    ]
    return {'images': images, 'annotations': annotations, 'categories': categories}


def simulate_detections(content: dict[str, list]) -> Iterator[dict[str, Any]]:
    """Per image: N labels, scores, boxes (N, 4) as x, y, width, height, and RLE counts of masks."""
    instances: dict[int, list[tuple[int, int]]] = {}
    for annotation in content['annotations']:
        instance = (annotation['shape'], annotation['category_id'] - 1)
        instances.setdefault(annotation['image_id'], []).append(instance)
    _, boxes, counts = _shapes()
    for image in content['images']:
        rng = np.random.default_rng(image['id'])
        true = np.array(instances[image['id']])[rng.integers(len(instances[image['id']]), size=300)]
        on_instance, of_class = rng.random(DETECTIONS) < 0.6, rng.random(DETECTIONS) < 0.5
        shape = np.where(on_instance, true[:, 0], rng.integers(SHAPES, size=DETECTIONS))
        other = rng.choice(CLASSES, DETECTIONS, p=POPULARITY)
        variant = rng.integers(1, VARIANTS, size=DETECTIONS)
        yield {
            'image_id': image['id'],
            'labels': np.where(on_instance & of_class, true[:, 1], other),
            'scores': (rng.random(DETECTIONS) * (1 + on_instance) / 2).astype(np.float32),
            'boxes': boxes[shape, variant],
            # Copies, or the simulation would take less memory than detections do.
            'counts': [bytes(bytearray(counts[s][v])) for s, v in zip(shape, variant)],
        }


def _shapes() -> tuple[list[list[float]], np.ndarray, list[list[bytes]]]:
    """Polygons of the shapes; boxes (SHAPES, VARIANTS, 4) and RLE counts of their variants."""
    rng = np.random.default_rng(1)
    angles = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    polygons, boxes, counts = [], [], []
    for _ in range(SHAPES):
        radius = np.clip(np.exp(rng.normal(3.3, 0.9)), 4, 150)
        center = rng.uniform(radius * 1.5, [WIDTH - radius * 1.5, HEIGHT - radius * 1.5])
        outline = circle * rng.uniform(0.7, 1, (VERTICES, 1)) * rng.uniform(0.6, 1, 2) * radius
        moves = rng.normal(0, 0.12 * radius, (VARIANTS, 1, 2))
        moves[0] = 0
        variants = outline * np.exp(moves[:, :, :1] / radius) + center + moves
        polygons.append(variants[0].round(2).ravel().tolist())
        boxes.append(np.concatenate([variants.min(axis=1), np.ptp(variants, axis=1)], axis=1))
        rles = [mask_utils.frPyObjects([v.ravel().tolist()], HEIGHT, WIDTH)[0] for v in variants]
        counts.append([rle['counts'] for rle in rles])
    return polygons, np.stack(boxes), counts


def _measure(path: Path, what: str) -> dict[str, Any]:
    command = [sys.executable, __file__, '--measure', what, str(path)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])  # the log comes before


def _measure_here(what: str, path: str) -> dict[str, Any]:
    content = json.loads(Path(path).read_text())
    measure = _run_reference if what == 'lvis-api' else _run_ours
    cost = measure(path, simulate_detections(content), fixed_ap=what == 'fixed')
    return {**cost, 'peak_mb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def _run_ours(path: str, images: Iterator[dict[str, Any]], fixed_ap: bool) -> dict[str, Any]:
    start = time.perf_counter()
    metric = LongTailLVISMetric(path, METRICS, fixed_ap=fixed_ap)
    seconds = time.perf_counter() - start
    for image in images:
        corners = torch.from_numpy(image['boxes']).clone()
        corners[:, 2:] += corners[:, :2]
        predictions = {
            'bboxes': corners.float(),
            'scores': torch.from_numpy(image['scores']),
            'labels': torch.from_numpy(image['labels']),
            'masks': [{'size': (HEIGHT, WIDTH), 'counts': counts} for counts in image['counts']],
        }
        start = time.perf_counter()
        metric.process({}, [{'img_id': image['image_id'], 'pred_instances': predictions}])
        seconds += time.perf_counter() - start
    num = len(metric.results)
    counted = sum(len(result['counted']) for result in metric.results) / (num * DETECTIONS)
    start = time.perf_counter()
    summary = metric.evaluate(num)
    seconds += time.perf_counter() - start
    ap = {name: summary[f'lvis/{name}_AP'] for name in METRICS}
    return {'seconds': seconds, 'counted': counted, 'AP': ap}


def _run_reference(path: str, images: Iterator[dict[str, Any]], fixed_ap: bool) -> dict[str, Any]:
    from lvis import LVIS, LVISResults

    results: dict[str, list[dict]] = {name: [] for name in METRICS}
    for image in images:
        labels, scores = image['labels'].tolist(), image['scores'].tolist()
        # The metric gets its boxes as float32 corners.
        corners = np.concatenate([image['boxes'][:, :2], image['boxes'][:, :2]], axis=1)
        corners[:, 2:] += image['boxes'][:, 2:]
        boxes = corners.astype(np.float32).astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        for label, score, box, counts in zip(labels, scores, boxes.tolist(), image['counts']):
            common = {'image_id': image['image_id'], 'category_id': label + 1, 'score': score}
            results['bbox'].append({**common, 'bbox': box})
            rle = {'size': [HEIGHT, WIDTH], 'counts': counts}
            results['segm'].append({**common, 'segmentation': rle})
    start = time.perf_counter()
    annotations = LVIS(path)
    ap = {}
    for name in METRICS:
        detections = LVISResults(annotations, results[name])
        evaluator = reference_evaluator()(annotations, detections, iou_type=name)
        evaluator.run()
        ap[name] = float(evaluator.results['AP'])
    return {'seconds': time.perf_counter() - start, 'AP': ap}


def main() -> None:
    """Run the benchmark, or one evaluation of it."""
    parser = argparse.ArgumentParser(description='What LVIS evaluation costs')
    parser.add_argument('--images', type=int, default=LVIS_VAL)
    parser.add_argument('--compare', type=int, default=1000)
    parser.add_argument('--fixed-ap', action='store_true')
    parser.add_argument('--measure', nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(_measure_here(*args.measure)))
    else:
        print(run(args.images, args.compare, args.fixed_ap))


if __name__ == '__main__':
    main()
