"""Write files whole or not at all, and say where before the work begins."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Union


class WriteError(OSError):
    """A file cannot be written; the message names it."""


@contextmanager
def written_whole(path: Union[str, Path]) -> Iterator[Path]:
    """A name to write a file under; the file gets its own name once it is complete.

    If writing fails, what there was under its name stays, and nothing else is left.

    Args:
        path: The file. Its folder is made.

    Raises:
        WriteError: If it cannot be written; the message says how much room is left.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'{path.name}.part')
    try:
        yield partial
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        # PyTorch makes a RuntimeError of a write that falls short.
        if isinstance(error, (OSError, RuntimeError)) and not isinstance(error, WriteError):
            raise WriteError(
                f'{path} cannot be written ({_reason(error)}; {_room(path.parent)}): make room '
                'there, or write elsewhere'
            ) from error
        raise


@contextmanager
def new_folders(folder: Union[str, Path]) -> Iterator[None]:
    """While the context lasts a folder is there; if it fails, those that were made for it go.

    A folder stays if there is something in it.

    Raises:
        WriteError: If it cannot be made, or nothing can be written into it.
    """
    folder = Path(folder).absolute()
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, 'permission denied')
    except OSError as error:
        _remove_empty(made)
        raise WriteError(
            f'nothing can be written into {folder} ({_reason(error)}): name another folder'
        ) from error
    try:
        yield
    except BaseException:
        _remove_empty(made)
        raise


def check_file(path: Union[str, Path]) -> None:
    """Raise WriteError if there is something in the way of a file that will be written."""
    if Path(path).is_dir():
        raise WriteError(f'{path} is a folder, where a file would be written: name another')


def where(path: Union[str, Path]) -> str:
    """The absolute path of what will be written, and whether that makes a folder."""
    path = Path(path).absolute()
    new = [each for each in path.parents if not each.exists()]
    return f'{path}, in a new folder, {new[-1]}' if new else str(path)


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk, or a quota, is full."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return isinstance(error, RuntimeError) and 'unexpected pos' in str(error)  # PyTorch's words


def _remove_empty(folders: list[Path]) -> None:
    for each in folders:
        with suppress(OSError):
            each.rmdir()


def _reason(error: BaseException) -> str:
    return getattr(error, 'strerror', None) or str(error)


def _room(folder: Path) -> str:
    try:
        status = os.statvfs(folder)
    except OSError:
        return 'the folder is gone'
    return f'{status.f_bavail * status.f_frsize / 1e6:,.1f} MB are free'
