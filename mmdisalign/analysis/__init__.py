"""Tables and figures, from the result files of the metrics alone."""

from .gate import Gate
from .results import (
    MISSED,
    Calibration,
    Evaluation,
    Picture,
    count_confusion,
    group_means,
    named_confusion,
    partition,
    spoken_group,
)
from .tables import class_table, markdown_table, summary_table, value_text

__all__ = [
    'MISSED',
    'Calibration',
    'Evaluation',
    'Gate',
    'Picture',
    'class_table',
    'count_confusion',
    'group_means',
    'markdown_table',
    'named_confusion',
    'partition',
    'spoken_group',
    'summary_table',
    'value_text',
]
