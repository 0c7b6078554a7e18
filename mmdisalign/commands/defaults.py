"""Defaults of ``calibrate.py`` for speed against quality; benchmarks/README.md measures them."""

# By plug-in. An image of a classifier is one sample; the others have many of a class.
IMAGES_PER_CLASS = {'segmentation': 48, 'detection': 64, 'classification': 400}
PASSES = 4
