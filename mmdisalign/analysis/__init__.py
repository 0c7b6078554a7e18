"""Tables and figures, from the result files of the metrics alone."""

from .results import SegmentationResult
from .tables import class_table, markdown_table, summary_table

__all__ = ['SegmentationResult', 'class_table', 'markdown_table', 'summary_table']
