"""The bar of what takes long."""

from __future__ import annotations

from mmengine.dist import is_main_process
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)


def progress_bar(*columns: ProgressColumn) -> Progress:
    """A bar with the time left, on a terminal, of the first process; nothing in a log.

    Args:
        columns: More of it, before the time left.
    """
    console = Console(stderr=True)
    return Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        *columns,
        TimeRemainingColumn(),
        console=console,
        disable=not (console.is_terminal and is_main_process()),
        transient=True,
    )
