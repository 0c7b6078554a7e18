"""Synthetic scenes with a long tail of classes, for demos and tests of both segmentation tasks.

A scene is a textured ground with a few objects on it. An object class is a shape with a texture,
and the classes come in pairs that share shape and colours: the frequent half of the ranking meets
its look-alikes in the rare half ('plain disc', 'dotted disc'). A model that learns from the long
tail takes the rare class for a frequent one, which is the bias that calibration is to mend. In
training, class frequencies follow a power law; in validation, they are uniform.

Every image depends on (spec, split, index) alone: neither the number nor the order of the images
that were rendered before changes it. With the same numpy and Pillow on the same kind of processor,
the bytes are the same.
"""

from __future__ import annotations

import colorsys
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

__all__ = [
    'Instance',
    'Scene',
    'SceneSpec',
    'object_labels',
    'render_scene',
    'write_ade20k',
    'write_lvis',
]

SPLITS = ('training', 'validation')
BACKGROUND = 1  # label of the ground; objects count on from 2, and 0 is unlabelled

_VERSION = 1  # of the pictures: raise it with every change that alters them
_MIN_DRAWS = 3  # a block of images has at least so many objects of the rarest class
_SUPERSAMPLING = 4  # per axis, for the share of a pixel that an object covers
_JPEG_QUALITY = 95
_COCO_HOST = 'http://images.cocodataset.org'  # mmdet takes it off a ``coco_url`` to get the path
_FREQUENCIES = 'fcr'  # LVIS's frequent, common and rare classes
_MIN_VISIBLE = 16  # pixels of an object that must be seen, or write_lvis leaves it out


def _polar(radii: list[float], start: float = -90.0) -> np.ndarray:
    """Vertices at equal angles, the first at ``start`` degrees."""
    angles = np.radians(start + 360 * np.arange(len(radii)) / len(radii))
    return np.array(radii)[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _crescent() -> np.ndarray:
    outer = np.radians(np.linspace(60, 300, 24))
    inner = np.radians(np.linspace(285, 75, 20))
    return np.concatenate(
        [
            np.stack([np.cos(outer), np.sin(outer)], axis=1),
            np.stack([0.42 + 0.74 * np.cos(inner), 0.86 * np.sin(inner)], axis=1),
        ]
    )


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y], axis=1)


def _of_unit_disc_area(vertices: np.ndarray) -> np.ndarray:
    """Centre the outline and give it area π, so that every shape of one size has as many pixels."""
    x, y = vertices.T
    cross = x * np.roll(y, -1) - np.roll(x, -1) * y
    area = cross.sum() / 2
    centre_x = ((x + np.roll(x, -1)) * cross).sum() / (6 * area)
    centre_y = ((y + np.roll(y, -1)) * cross).sum() / (6 * area)
    return (vertices - [centre_x, centre_y]) * math.sqrt(math.pi / abs(area))


_PLUS = [(1, 3), (1, 1), (3, 1), (3, -1), (1, -1), (1, -3)]

# Outlines as (P, 2) vertices x, y, in units of the object's radius.
_SHAPES = {
    name: _of_unit_disc_area(np.array(vertices, dtype=float))
    for name, vertices in {
        'disc': _polar([1.0] * 32),
        'square': _polar([1.0] * 4),
        'triangle': _polar([1.0] * 3),
        'star': _polar([1.0, 0.48] * 5),
        'cross': _PLUS + [(-x, -y) for x, y in _PLUS],
        'heart': _heart(),
        'arrow': [(-3, -1), (0, -1), (0, -2.6), (3, 0), (0, 2.6), (0, 1), (-3, 1)],
        'bar': [(-3, -1), (3, -1), (3, 1), (-3, 1)],
        'crescent': _crescent(),
        'bow': [(-2, -1.7), (0, -0.5), (2, -1.7), (2, 1.7), (0, 0.5), (-2, 1.7)],
    }.items()
}

# Textures map object coordinates u, v (in units of the radius, turned with the object) and the
# frequency f (radians per radius) to the tone, from -1, dark, to 1, light.
_TEXTURES: dict[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    'plain': lambda u, v, f: np.zeros_like(u),
    'striped': lambda u, v, f: np.tanh(3 * np.sin(f * u)),
    'dotted': lambda u, v, f: np.tanh(3 * (np.cos(f * u) + np.cos(f * v) - 0.8)),
    'checked': lambda u, v, f: np.tanh(6 * np.sin(f * u / 1.5) * np.sin(f * v / 1.5)),
    'ringed': lambda u, v, f: np.tanh(3 * np.sin(f * np.hypot(u, v))),
}

# Shape, hue in turns, texture of the frequent class, texture of its rare look-alike. Either column
# has plain and patterned objects, so that having a pattern does not tell a rare class.
_PAIRS = (
    ('disc', 0.00, 'plain', 'dotted'),
    ('square', 0.60, 'striped', 'plain'),
    ('triangle', 0.14, 'plain', 'striped'),
    ('star', 0.07, 'ringed', 'plain'),
    ('cross', 0.49, 'plain', 'striped'),
    ('heart', 0.90, 'dotted', 'plain'),
    ('arrow', 0.33, 'plain', 'checked'),
    ('bar', 0.38, 'striped', 'plain'),
    ('crescent', 0.75, 'plain', 'striped'),
    ('bow', 0.80, 'checked', 'plain'),
)


@dataclass(frozen=True)
class SceneSpec:
    """What scenes look like; equal specs render equal scenes.

    Args:
        num_classes: Number of classes C with the background, 2 to 21. Default: 12.
        imbalance: How many times as often the most frequent object class is placed in training as
            the least frequent one, at least 1. Default: 50.
        image_size: Height and width in pixels, each at least 48. Default: (96, 96).
        objects_per_image: Least and most objects on an image, within 1 to 8. Default: (2, 5).
        seed: Seed of everything random, at least 0. Default: 0.
    """

    num_classes: int = 12
    imbalance: float = 50.0
    image_size: tuple[int, int] = (96, 96)
    objects_per_image: tuple[int, int] = (2, 5)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ('image_size', 'objects_per_image'):  # configs and JSON may hold lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        most_classes = 2 * len(_PAIRS) + 1
        if not 2 <= self.num_classes <= most_classes:
            raise ValueError(f'num_classes must be 2 to {most_classes}, got {self.num_classes}')
        if not 1 <= self.imbalance < math.inf:
            raise ValueError(f'imbalance must be finite and at least 1, got {self.imbalance}')
        if len(self.image_size) != 2 or min(self.image_size) < 48:
            raise ValueError(
                f'image_size must be (height, width), each at least 48, got {self.image_size}'
            )
        if len(self.objects_per_image) != 2 or not (
            1 <= self.objects_per_image[0] <= self.objects_per_image[1] <= 8
        ):
            raise ValueError(
                'objects_per_image must be (least, most) with 1 <= least <= most <= 8, '
                f'got {self.objects_per_image}'
            )
        if self.seed < 0:
            raise ValueError(f'seed must be at least 0, got {self.seed}')

    @property
    def objects(self) -> tuple[tuple[str, str, float], ...]:
        """Texture, shape and hue of the object classes, from most to least frequent."""
        count = self.num_classes - 1
        pairs = _PAIRS[: (count + 1) // 2]
        frequent = [(texture, shape, hue) for shape, hue, texture, _ in pairs]
        rare = [(texture, shape, hue) for shape, hue, _, texture in pairs]
        return tuple((frequent + rare)[:count])

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the C classes, background first, then from most to least frequent object."""
        return ('background', *(f'{texture} {shape}' for texture, shape, _ in self.objects))

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """An RGB colour a class, 0 to 255: the hue of the objects, pale for the rare look-alike."""
        rare_from = len(self.objects) - len(self.objects) // 2
        colours = [
            colorsys.hsv_to_rgb(hue, 0.45 if rank >= rare_from else 0.9, 0.9)
            for rank, (_, _, hue) in enumerate(self.objects)
        ]
        return ((70, 70, 70), *(tuple(round(255 * part) for part in rgb) for rgb in colours))

    def frequencies(self, split: str) -> np.ndarray:
        """Shares of the object classes among the objects placed in a split, (C - 1,), sum 1.

        Training: rank k = 1..K is proportional to k^-γ, with γ such that the first is ``imbalance``
        times as frequent as the last. Validation: uniform.

        Raises:
            ValueError: If the split is neither 'training' nor 'validation'.
        """
        if split not in SPLITS:
            raise ValueError(f'split must be one of {SPLITS}, got {split!r}')
        imbalance = float(self.imbalance) if split == 'training' else 1.0
        ranks = np.arange(1, self.num_classes)
        exponent = math.log(imbalance) / math.log(len(ranks)) if len(ranks) > 1 else 0.0
        profile = ranks**-exponent
        return profile / profile.sum()

    def block_size(self, split: str) -> int:
        """Number of images in which the split's frequencies are met, up to whole objects.

        Images 0 to n - 1, n to 2n - 1, ... are blocks. Each has every object class at least three
        times; in validation, each has all object classes equally often.
        """
        least, most = self.objects_per_image
        images = (self.num_classes - 1) * (most - least + 1)
        objects = images * (least + most) // 2
        return images * math.ceil(_MIN_DRAWS / (self.frequencies(split)[-1] * objects))


@dataclass(frozen=True, eq=False)
class Instance:
    """An object of a scene.

    Attributes:
        label: Its id in the label map, 2 to C.
        outline: Polygon of the whole object, also where it is hidden or off the image: float array
            (P, 2) of x, y in pixels, with (0, 0) the top left corner of the image.
        mask: Where it can be seen, bool array (H, W).
    """

    label: int
    outline: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True, eq=False)
class Scene:
    """A rendered scene.

    Attributes:
        image: uint8 array (H, W, 3), RGB.
        labels: uint8 array (H, W): 1 is the ground, 2 to C are objects, 0 is unlabelled, which the
            rims of the objects are, where a pixel is part object and part what lies behind it.
        instances: The objects, from back to front.
    """

    image: np.ndarray
    labels: np.ndarray
    instances: tuple[Instance, ...]


def object_labels(spec: SceneSpec, split: str, index: int) -> np.ndarray:
    """Labels (2 to C) of the objects on an image, int array (number of objects,).

    Args:
        spec: What scenes look like.
        split: 'training' or 'validation'.
        index: Number of the image, from 0.

    Raises:
        ValueError: If the split is another, or the index negative.
    """
    if index < 0:
        raise ValueError(f'index must be at least 0, got {index}')
    block, position = divmod(index, spec.block_size(split))
    return _plan_block(spec, split, block)[position]


@lru_cache(maxsize=16)
def _plan_block(spec: SceneSpec, split: str, block: int) -> list[np.ndarray]:
    """Object labels of each image of a block, drawn so that the block keeps to the frequencies.

    Independent draws would leave the rarest class out of some small training sets; here the classes
    are dealt out by systematic sampling and then shuffled over the images.
    """
    rng = _rng(spec, split, block, 'plan')
    least, most = spec.objects_per_image
    sizes = np.arange(least, most + 1)
    sizes = rng.permutation(np.tile(sizes, spec.block_size(split) // len(sizes)))
    points = (np.arange(sizes.sum()) + rng.uniform(0.01, 0.99)) / sizes.sum()
    ranks = np.searchsorted(np.cumsum(spec.frequencies(split))[:-1], points)
    labels = rng.permutation(ranks) + BACKGROUND + 1
    return np.split(labels, np.cumsum(sizes)[:-1])


def _rng(spec: SceneSpec, split: str, index: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng(
        [spec.seed, SPLITS.index(split), index, ('plan', 'scene').index(purpose)]
    )


def render_scene(spec: SceneSpec, split: str, index: int) -> Scene:
    """Render one image of a split.

    Args:
        spec: What scenes look like.
        split: 'training' or 'validation'.
        index: Number of the image, from 0.

    Raises:
        ValueError: If the split is another, or the index negative.
    """
    labels = object_labels(spec, split, index)
    rng = _rng(spec, split, index, 'scene')
    height, width = spec.image_size
    canvas = _ground(rng, height, width)
    label_map = np.full((height, width), BACKGROUND, dtype=np.uint8)
    instances: list[Instance] = []
    for label, centre, radius in zip(labels, *_layout(rng, len(labels), height, width)):
        texture, shape, hue = spec.objects[label - BACKGROUND - 1]
        pose = _pose(rng, radius)
        outline = _SHAPES[shape] @ pose.T + centre
        window, coverage = _rasterize(outline, height, width)
        paint = _paint(rng, texture, hue, *_object_coordinates(window, centre, pose))
        canvas[window] += coverage[..., None] * (paint - canvas[window])
        label_map[window][coverage > 0.2] = 0
        label_map[window][coverage > 0.8] = label
        mask = np.zeros((height, width), dtype=bool)
        mask[window] = coverage >= 0.5
        for hidden in instances:
            hidden.mask[mask] = False
        instances.append(Instance(int(label), outline, mask))
    return Scene(_develop(rng, canvas), label_map, tuple(instances))


def _smooth_noise(rng: np.random.Generator, height: int, width: int, cells: float) -> np.ndarray:
    """Noise (H, W) of unit scale, with about ``cells`` blobs across and stretched at random."""
    stretch = 2 ** rng.uniform(-1, 1)
    grid = rng.standard_normal(
        (max(2, round(cells * stretch)), max(2, round(cells / stretch))), dtype=np.float32
    )
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.BICUBIC))


def _ground(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A blotchy and grainy surface of a dull colour, float32 (H, W, 3), about 0 to 1."""
    colour = rng.uniform(0.3, 0.65) + rng.uniform(-0.09, 0.09, 3)
    tint = rng.uniform(-0.06, 0.06, 3)
    canvas = colour + tint * _smooth_noise(rng, height, width, 3)[..., None]
    for cells, strength in ((6, 0.07), (16, 0.06), (40, 0.05)):
        noise = rng.uniform(0.4, 1) * strength * _smooth_noise(rng, height, width, cells)
        canvas += noise[..., None]
    return canvas.astype(np.float32)


def _layout(
    rng: np.random.Generator, count: int, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Centres (count, 2) as x, y and radii (count,) of the objects, in pixels.

    Objects may hide a part of each other or stick out of the image, but the centres keep their
    distance, so that none is hidden whole.
    """
    radii = min(height, width) * rng.uniform(0.14, 0.25, count)
    centres = np.empty((0, 2))
    for i, radius in enumerate(radii):
        margin = 0.5 * radius
        tries = rng.uniform(margin, [width - margin, height - margin], (24, 2))
        gaps = np.linalg.norm(tries[:, None] - centres, axis=2) / (radius + radii[:i])
        gaps = gaps.min(axis=1, initial=0.7)  # of the tries that are far enough, the first
        centres = np.append(centres, tries[[gaps.argmax()]], axis=0)
    return centres, radii


def _pose(rng: np.random.Generator, radius: float) -> np.ndarray:
    """Matrix (2, 2) from object coordinates to pixels: squeezed a little, then turned."""
    squeeze = rng.uniform(0.8, 1.25) ** 0.5
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return radius * turn * [squeeze, 1 / squeeze]


def _rasterize(
    outline: np.ndarray, height: int, width: int
) -> tuple[tuple[slice, slice], np.ndarray]:
    """The window around a polygon, and the share of each pixel it covers, float32 (h, w)."""
    left, top = np.maximum(np.floor(outline.min(axis=0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(outline.max(axis=0)).astype(int), [width, height])
    window = slice(top, bottom), slice(left, right)
    fine = Image.new('L', ((right - left) * _SUPERSAMPLING, (bottom - top) * _SUPERSAMPLING))
    corners = (outline - [left, top]) * _SUPERSAMPLING - 0.5  # Pillow's 0 is a pixel's centre
    ImageDraw.Draw(fine).polygon(corners.ravel().tolist(), fill=255)
    return window, np.asarray(fine.reduce(_SUPERSAMPLING), dtype=np.float32) / 255


def _object_coordinates(
    window: tuple[slice, slice], centre: np.ndarray, pose: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates u, v of the pixels of a window in the object's own frame, each (h, w)."""
    rows, columns = window
    x = np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5 - centre[0]
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + 0.5 - centre[1]
    inverse = np.linalg.inv(pose)
    return inverse[0, 0] * x + inverse[0, 1] * y, inverse[1, 0] * x + inverse[1, 1] * y


def _paint(
    rng: np.random.Generator, texture: str, hue: float, u: np.ndarray, v: np.ndarray
) -> np.ndarray:
    """Colours of an object at its coordinates u, v, float32 (h, w, 3), about 0 to 1."""
    hue = (hue + rng.normal(0, 0.02)) % 1
    colour = colorsys.hsv_to_rgb(hue, rng.uniform(0.45, 0.85), rng.uniform(0.45, 0.8))
    frequency = 2 * np.pi / rng.uniform(0.65, 0.9)
    tone = rng.uniform(0.25, 0.5) * _TEXTURES[texture](u + rng.uniform(0, 1), v, frequency)
    light = 1 + rng.uniform(-0.15, 0.15) * u + rng.uniform(-0.15, 0.15) * v
    return ((light + tone)[..., None] * colour).astype(np.float32)


def _develop(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """The picture as a camera has it: exposure, colour cast and sensor noise; uint8 (H, W, 3)."""
    gain = (rng.uniform(0.8, 1.15) * rng.uniform(0.94, 1.06, 3)).astype(np.float32)
    noise = rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(0.03)
    return (np.clip(canvas * gain + noise, 0, 1) * 255).round().astype(np.uint8)


def write_ade20k(spec: SceneSpec, root: str | Path, num_train: int, num_val: int) -> Path:
    """Write both splits in the layout of ADE20K, or keep what an equal call wrote before.

    ``images/{training,validation}/*.jpg`` and ``annotations/{training,validation}/*.png``, 8-bit
    label maps with 0 for unlabelled (``reduce_zero_label=True`` in mmseg). ``scenes.json`` has the
    spec, the palette, and the class names and training pixels as ``classes`` and ``counts``, which
    ``ClassPrior.build`` reads.

    The folder is written in a hidden one beside ``root`` and renamed when it is whole, so there is
    never half a data set at ``root``: after an interruption, the next call writes it anew.

    Args:
        spec: What scenes look like.
        root: Folder to write; must be missing, empty, or written by an equal call.
        num_train: Number of training images, at least ``spec.block_size('training')``, so that
            every class is in it.
        num_val: Number of validation images, at least 1; the classes are balanced exactly if it is
            a multiple of ``spec.block_size('validation')``.

    Returns:
        ``root`` as a path.

    Raises:
        ValueError: If there are too few images.
        FileExistsError: If ``root`` holds anything else; the message says what.
    """
    return _write_once(spec, Path(root), num_train, num_val, 'ade20k')


def write_lvis(spec: SceneSpec, root: str | Path, num_train: int, num_val: int) -> Path:
    """Write both splits in the format of LVIS v1, or keep what an equal call wrote before.

    ``images/{training,validation}/*.jpg``, the same pictures as :func:`write_ade20k`'s, and
    ``annotations/scenes_{train,val}.json``, which mmdet's ``LVISV1Dataset`` reads with
    ``data_prefix=dict(img='')`` and the object classes as its ``metainfo``; for COCO's tools,
    ``file_name`` has the path too:

    - The categories are the C - 1 object classes, ids from 1 in the order of ``spec.classes``; the
      background is none. ``image_count`` and ``instance_count`` are those of the same file.
      ``frequency`` is relative, as no small set has LVIS's 100 images a class: in the order of
      training frequency, the first third is f, the second c, the last r.
    - Masks are what can be seen of an object, as uncompressed RLE; boxes fit them; areas are their
      pixels. An object of which fewer than 16 pixels are seen is left out.
    - Classes absent from an image are its ``neg_category_ids``. A class with an object left out is
      not one of them, and is in ``not_exhaustive_category_ids`` if another object is annotated.

    ``scenes.json`` has the spec, the palette of the objects, and their names, training instances
    and groups as ``classes``, ``counts`` and ``groups``, which ``ClassPrior.build`` reads.

    Like :func:`write_ade20k`, it writes a whole data set or none.

    Args:
        spec: What scenes look like; at least 4 classes, so that none of f, c and r is empty.
        root: Folder to write; must be missing, empty, or written by an equal call.
        num_train: Number of training images, at least ``spec.block_size('training')``.
        num_val: Number of validation images, at least 1.

    Returns:
        ``root`` as a path.

    Raises:
        ValueError: If there are too few classes or images.
        FileExistsError: If ``root`` holds anything else; the message says what.
    """
    if spec.num_classes < 4:
        raise ValueError(
            f'num_classes must be at least 4 for frequent, common and rare ones, got {spec}'
        )
    return _write_once(spec, Path(root), num_train, num_val, 'lvis')


def _write_once(spec: SceneSpec, root: Path, num_train: int, num_val: int, layout: str) -> Path:
    """Write a data set of one of the ``_LAYOUTS``, unless ``root`` holds it already."""
    if num_train < spec.block_size('training'):
        raise ValueError(
            f'num_train must be at least {spec.block_size("training")}, so that every class of '
            f'{spec} is in the training set, got {num_train}'
        )
    if num_val < 1:
        raise ValueError(f'num_val must be at least 1, got {num_val}')
    order = dict(version=_VERSION, layout=layout, spec=asdict(spec))
    order.update(num_train=num_train, num_val=num_val)
    order = json.loads(json.dumps(order))  # as it is read back: lists for tuples
    if root.exists() and _holds(root, order):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{root.name}-', dir=root.parent) as scratch:
        whole = Path(scratch) / root.name
        facts = _LAYOUTS[layout](spec, whole, dict(zip(SPLITS, (num_train, num_val))))
        _write_json(whole / 'scenes.json', {**order, **facts})
        try:
            os.rename(whole, root)
        except OSError:
            if not _holds(root, order):  # another process was first
                raise
    return root


def _holds(root: Path, order: Mapping[str, Any]) -> bool:
    """Whether ``root`` holds the data set in question; False if it is empty."""
    if root.is_dir() and not any(root.iterdir()):
        return False
    try:
        content = json.loads((root / 'scenes.json').read_text(encoding='utf-8'))
        found = {key: content[key] for key in order}
    except (OSError, ValueError, TypeError, KeyError):
        raise FileExistsError(
            f'{root} holds something else than scenes (it has no scenes.json that can be read); '
            'choose another folder or remove it'
        ) from None
    for key, value in order.items():
        if found[key] != value:
            raise FileExistsError(
                f'{root} holds other scenes: {key} is {found[key]}, not {value}; '
                'choose another folder or remove it'
            )
    return True


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content) + '\n', encoding='utf-8')


def _save_pictures(
    spec: SceneSpec, root: Path, split: str, count: int
) -> Iterator[tuple[str, Scene]]:
    """Render the scenes of a split, save each as images/SPLIT/NAME.jpg, and yield (NAME, scene)."""
    folder = root / 'images' / split
    folder.mkdir(parents=True)
    for index in range(count):
        scene = render_scene(spec, split, index)
        name = f'scene_{index:05d}'
        Image.fromarray(scene.image).save(folder / f'{name}.jpg', quality=_JPEG_QUALITY)
        yield name, scene


def _write_ade20k(spec: SceneSpec, root: Path, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Write the splits with their label maps; returns what ``scenes.json`` says of the classes."""
    pixels = {split: np.zeros(spec.num_classes + 1, dtype=np.int64) for split in sizes}
    for split, count in sizes.items():
        annotations = root / 'annotations' / split
        annotations.mkdir(parents=True)
        for name, scene in _save_pictures(spec, root, split, count):
            Image.fromarray(scene.labels).save(annotations / f'{name}.png')
            pixels[split] += np.bincount(scene.labels.ravel(), minlength=spec.num_classes + 1)
    counts = pixels['training'][1:].tolist()
    return dict(classes=spec.classes, palette=spec.palette, counts=counts)


def _write_lvis(spec: SceneSpec, root: Path, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Write the splits with their annotations; returns what ``scenes.json`` says of the classes."""
    (root / 'annotations').mkdir(parents=True)
    contents = {}
    for (split, count), short in zip(sizes.items(), ('train', 'val')):
        contents[split] = _save_lvis_split(spec, root, split, count)
        _write_json(root / 'annotations' / f'scenes_{short}.json', contents[split])
    categories = contents['training']['categories']
    groups = {
        group: [i for i, category in enumerate(categories) if category['frequency'] == letter]
        for group, letter in zip(('head', 'body', 'tail'), _FREQUENCIES)
    }
    counts = [category['instance_count'] for category in categories]
    return dict(classes=spec.classes[1:], palette=spec.palette[1:], counts=counts, groups=groups)


def _save_lvis_split(spec: SceneSpec, root: Path, split: str, count: int) -> dict[str, Any]:
    """Save the pictures of a split; returns the content of its annotation file."""
    images: list[dict] = []
    annotations: list[dict] = []
    for name, scene in _save_pictures(spec, root, split, count):
        image, objects = _annotate(spec, scene, len(images) + 1, f'images/{split}/{name}.jpg')
        images.append(image)
        annotations += [{'id': len(annotations) + i, **item} for i, item in enumerate(objects, 1)]
    return dict(
        info=dict(description='synthetic scenes of mmdisalign'),
        licenses=[],
        images=images,
        annotations=annotations,
        categories=_categories(spec, annotations),
    )


def _annotate(spec: SceneSpec, scene: Scene, image_id: int, path: str) -> tuple[dict, list[dict]]:
    """LVIS's entry of an image, saved at ``path`` below the root, and those of its objects."""
    objects = []
    hidden = set()
    for instance in scene.instances:
        category = instance.label - BACKGROUND
        if instance.mask.sum() < _MIN_VISIBLE:
            hidden.add(category)
        else:
            ids = dict(image_id=image_id, category_id=category)
            objects.append({**ids, **_outline(instance.mask)})
    seen = {item['category_id'] for item in objects}
    height, width = scene.labels.shape
    image = dict(
        id=image_id,
        file_name=path,
        coco_url=f'{_COCO_HOST}/{path}',
        height=height,
        width=width,
        neg_category_ids=sorted({*range(1, spec.num_classes)} - seen - hidden),
        not_exhaustive_category_ids=sorted(seen & hidden),
    )
    return image, objects


def _categories(spec: SceneSpec, annotations: list[dict]) -> list[dict]:
    """LVIS's list of categories: the object classes, with their counts in the annotations."""
    thirds = np.array_split(np.arange(spec.num_classes - 1), len(_FREQUENCIES))
    letters = ''.join(letter * len(part) for letter, part in zip(_FREQUENCIES, thirds))
    categories = []
    for label, (name, letter) in enumerate(zip(spec.classes[1:], letters), start=1):
        images = [item['image_id'] for item in annotations if item['category_id'] == label]
        names = dict(name=name, synset=name, synonyms=[name], **{'def': name})
        counts = dict(image_count=len(set(images)), instance_count=len(images))
        categories.append(dict(id=label, **names, frequency=letter, **counts))
    return categories


def _outline(mask: np.ndarray) -> dict[str, Any]:
    """Segmentation (uncompressed RLE), bbox (x, y, width, height) and area of a mask (H, W)."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    return dict(
        segmentation=dict(size=list(mask.shape), counts=_run_lengths(mask)),
        bbox=[left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        area=int(mask.sum()),
    )


def _run_lengths(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of a mask, column by column, beginning with one of zeros."""
    pixels = np.concatenate([[False], mask.ravel(order='F')])
    starts = np.flatnonzero(pixels[1:] != pixels[:-1])
    return np.diff(starts, prepend=0, append=mask.size).tolist()


_LAYOUTS = {'ade20k': _write_ade20k, 'lvis': _write_lvis}
