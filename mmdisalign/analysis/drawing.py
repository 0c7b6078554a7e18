"""Images of the report, as arrays."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

LONG_EDGE = 720  # of an image on the page, in pixels
LOWEST, HIGHEST = 0.1, 0.99  # σ of the darkest and of the brightest colour
KEYS = (0.1, 0.5, 0.9, 0.99)
MARKS = (('blue', (0, 114, 178)), ('orange', (213, 94, 0)))
STRIP = 22  # pixels of the key's height


def draw_sigma(sigma: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map of σ: dark where the gate closes, on a scale even in logit σ, with its key below.

    Args:
        sigma: Shape (h, w).
        size: Height and width of the image that it is of.

    Returns:
        RGB, uint8, of the image's proportions and at most 720 pixels long, above the key.
    """
    height, width = _fitted(size)
    colours = Image.fromarray(_coloured(_place(sigma)))
    drawn = Image.new('RGB', (width, height + STRIP), 'white')
    drawn.paste(colours.resize((width, height), Image.Resampling.NEAREST), (0, 0))
    ramp = _coloured(np.tile(np.linspace(0, 1, width), (STRIP, 1)))
    drawn.paste(Image.fromarray(ramp), (0, height))
    draw, font = ImageDraw.Draw(drawn), ImageFont.load_default()
    for key in KEYS:
        place = float(_place(np.array(key)))
        at = (4 + place * (width - 8), height + STRIP / 2)
        anchor = {0: 'lm', 1: 'rm'}.get(place, 'mm')
        draw.text(at, f'{key:g}', _ink(place), font, anchor=anchor)
    return np.asarray(drawn)


def draw_marks(image: np.ndarray, marked: Sequence[np.ndarray]) -> np.ndarray:
    """An image in grey with some of its positions in colours.

    Args:
        image: RGB, uint8, (H, W, 3).
        marked: Which positions, each of shape (h, w), have the first and the second of ``MARKS``.

    Returns:
        RGB, uint8, of the image's proportions and at most 720 pixels long.
    """
    height, width = _fitted(image.shape[:2])
    grey = Image.fromarray(image).convert('L').resize((width, height))
    drawn = np.asarray(grey)[..., None].repeat(3, axis=2).astype(np.float64)
    for own, (_, colour) in zip(marked, MARKS):
        mask = Image.fromarray(np.where(own, 255, 0).astype(np.uint8))
        mask = np.asarray(mask.resize((width, height), Image.Resampling.NEAREST)) > 0
        drawn[mask] = 0.3 * drawn[mask] + 0.7 * np.array(colour)
    return drawn.round().astype(np.uint8)


def _fitted(size: tuple[int, int]) -> tuple[int, int]:
    ratio = min(1.0, LONG_EDGE / max(size))
    return tuple(max(1, round(ratio * edge)) for edge in size)


def _place(sigma: np.ndarray) -> np.ndarray:
    """Where a σ is on the scale, from 0 to 1."""
    low, high, own = (
        np.log(each / (1 - each)) for each in (LOWEST, HIGHEST, np.clip(sigma, LOWEST, HIGHEST))
    )
    return (own - low) / (high - low)


def _coloured(places: np.ndarray) -> np.ndarray:
    return (255 * matplotlib.colormaps['viridis'](places)[..., :3]).round().astype(np.uint8)


def _ink(place: float) -> str:
    return 'black' if place > 0.6 else 'white'
