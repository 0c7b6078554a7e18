"""Data that ships with the package: class-statistics tables, and the synthetic long-tailed scenes.

``mmdisalign.data.scenes`` needs Pillow and is imported by name, so that reading a table does not.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ['table_path']


def table_path(name: str) -> Path:
    """Return the file of a shipped class-statistics table.

    Args:
        name: Name of the table: ``'ade20k'``, ``'lvis_v1'`` or ``'lvis_v0.5'``.

    Returns:
        Path of a CSV file: ``#`` comment lines that name the source, a header, one row a class.

    Raises:
        ValueError: If no such table ships; the message lists those that do.
    """
    tables = {path.stem: path for path in Path(__file__).parent.glob('*.csv')}
    if name not in tables:
        raise ValueError(f'no shipped table is called {name!r}; there are: {sorted(tables)}')
    return tables[name]
