"""Run the tools as a user would, from the demo and the benchmarks."""

from __future__ import annotations

import multiprocessing
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from mmengine.device import get_device

from mmdisalign import cli, shipped


def run_tool(name: str, *arguments: object, log: Path) -> float:
    """Run a script of ``tools/``; returns the minutes that it took, see :func:`measure_tool`."""
    minutes, _ = measure_tool(name, *arguments, log=log)
    return minutes


def measure_tool(name: str, *arguments: object, log: Path) -> tuple[float, float]:
    """Run a script of ``tools/``, with its output in a log file.

    Args:
        name: Name of the script, such as ``'train'``.
        arguments: Its arguments.
        log: File that gets its output.

    Returns:
        Minutes that it took, and the most memory that a process of it held, in GB.

    Raises:
        RuntimeError: If it fails; the message has the end of the log.
    """
    command = _announce(name, arguments, log)
    start = time.monotonic()
    with log.open('w', encoding='utf-8') as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=_environment(),
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    _check(name, process.returncode, log)
    return (time.monotonic() - start) / 60, usage.ru_maxrss / 1e6


def fork_tool(name: str, *arguments: object, log: Path) -> None:
    """Run a script of ``tools/`` without importing again what this process has imported.

    That takes a tool more seconds than some of them take to work. Where there is a GPU, or the
    system is not Linux, it is run as :func:`run_tool` does: a process that has asked for a GPU
    cannot use it in its forks, and elsewhere forks are not sure to work.

    Args:
        name: Name of the script, such as ``'train'``.
        arguments: Its arguments.
        log: File that gets its output.

    Raises:
        RuntimeError: If it fails; the message has the end of the log.
    """
    if get_device() != 'cpu' or sys.platform != 'linux':
        run_tool(name, *arguments, log=log)
        return
    command = _announce(name, arguments, log)
    log.write_text('')
    process = multiprocessing.get_context('fork').Process(
        target=cli.be_script, args=(command, os.getcwd(), _environment(), str(log))
    )
    process.start()
    process.join()
    _check(name, process.exitcode, log)


def _announce(name: str, arguments: tuple[object, ...], log: Path) -> list[str]:
    """Print a tool's command line, and make the folder of its log; returns script and arguments."""
    command = [str(shipped('tools') / f'{name}.py'), *(str(part) for part in arguments)]
    print(f'$ python tools/{name}.py {shlex.join(command[1:])}', flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    return command


def _environment() -> dict[str, str]:
    """The environment of this process, in which this package is found."""
    package = Path(__file__).resolve().parents[2]
    path = os.pathsep.join(filter(None, [str(package), os.environ.get('PYTHONPATH')]))
    return {**os.environ, 'PYTHONPATH': path}


def _check(name: str, status: int, log: Path) -> None:
    if status:
        tail = '\n'.join(log.read_text(encoding='utf-8').splitlines()[-25:])
        raise RuntimeError(f'tools/{name}.py failed; all of its output is in {log}\n{tail}')
