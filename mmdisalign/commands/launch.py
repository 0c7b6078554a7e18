"""Run the tools as a user would, from the demo and the benchmarks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from mmdisalign import shipped


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
    tools, package = shipped('tools'), Path(__file__).resolve().parents[2]
    command = [sys.executable, str(tools / f'{name}.py'), *(str(part) for part in arguments)]
    print(f'$ python tools/{name}.py {" ".join(command[2:])}', flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(filter(None, [str(package), os.environ.get('PYTHONPATH')]))
    start = time.monotonic()
    with log.open('w', encoding='utf-8') as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, 'PYTHONPATH': path},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        tail = '\n'.join(log.read_text(encoding='utf-8').splitlines()[-25:])
        raise RuntimeError(f'tools/{name}.py failed; all of its output is in {log}\n{tail}')
    return (time.monotonic() - start) / 60, usage.ru_maxrss / 1e6
