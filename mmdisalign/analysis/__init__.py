"""Tables and figures, from the result files of the metrics alone."""

from .results import Evaluation, group_means
from .tables import class_table, markdown_table, summary_table

__all__ = ['Evaluation', 'class_table', 'group_means', 'markdown_table', 'summary_table']
