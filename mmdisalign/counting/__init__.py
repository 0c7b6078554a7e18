"""A config's training data to a ``ClassPrior``, with what keeps the counts of unchanged files."""

from .counting import CountError, classes_of_images, counter_of

__all__ = ['CountError', 'classes_of_images', 'counter_of']
