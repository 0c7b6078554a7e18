"""What has been counted, kept by the identity of the annotation files."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Optional

Key = tuple[str, str, str]  # how it was counted, the file's path, its identity
SCHEMA = """
CREATE TABLE IF NOT EXISTS counts (
    how TEXT, path TEXT, identity TEXT, value TEXT, PRIMARY KEY (how, path)
) WITHOUT ROWID"""


class CountCache:
    """JSON values by the annotation file that they were counted from, in one SQLite file.

    SQLite's journal survives a kill, so that an interrupted count goes on from the last
    :meth:`write`. A file that changed replaces its old value. Where the cache cannot be read or
    written, it says so once and stays empty: a count goes on without it.

    Attributes:
        path: ``mmdisalign/counts.sqlite`` in ``$XDG_CACHE_HOME``, or else in ``~/.cache``.
        usable: Whether reading and writing has worked so far.
    """

    def __init__(self) -> None:
        home = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()
        self.path = home / 'mmdisalign' / 'counts.sqlite'
        self.usable = True

    def read(self, keys: Iterable[Optional[Key]]) -> dict[Key, Any]:
        """The values of those files that are known, and are what they were."""
        query = 'SELECT value FROM counts WHERE how = ? AND path = ? AND identity = ?'

        def select(connection: sqlite3.Connection) -> dict[Key, Any]:
            rows = ((key, connection.execute(query, key).fetchone()) for key in keys if key)
            return {key: json.loads(row[0]) for key, row in rows if row}

        return self._try(select) or {}

    def write(self, values: Iterable[tuple[Optional[Key], Any]]) -> None:
        """Keep values, all or none; those without a key are let go."""
        rows = [(*key, json.dumps(value)) for key, value in values if key]
        if rows:
            insert = 'INSERT OR REPLACE INTO counts VALUES (?, ?, ?, ?)'
            self._try(lambda connection: connection.executemany(insert, rows))

    def _try(self, use: Callable[[sqlite3.Connection], Any]) -> Any:
        """Use a connection of its own: worker processes may not inherit an open one."""
        if not self.usable:
            return None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path)) as connection, connection:
                connection.execute(SCHEMA)
                return use(connection)
        except (OSError, ValueError, sqlite3.Error) as error:
            self.usable = False
            what = f'the cache {self.path} cannot be used ({error}): counting without it'
            print(f'{what}. Delete it if it is broken.', file=sys.stderr)
            return None


def file_identity(path: str) -> Optional[str]:
    """Size and times of change of a file, or None if it is not on this disk."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return f'{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}'


def cache_key(path: str, *how: Any) -> Optional[Key]:
    """The key of what is counted from one file, or None if the file is not on this disk.

    Args:
        path: The annotation file. It is known by its path, size and times of change.
        how: Everything else that decides the result.
    """
    identity = file_identity(path)
    if identity is None:
        return None
    settings = hashlib.sha256(repr(how).encode()).hexdigest()
    return settings, os.path.abspath(path), identity
