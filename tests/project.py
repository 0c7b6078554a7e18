"""How tests run the tools, on a project outside the checkout."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def environment(repo: Path) -> dict[str, str]:
    """The environment of a user who has installed the checkout."""
    path = os.pathsep.join([str(repo), os.environ.get('PYTHONPATH', '')])
    # Tests that run at the same time, in other workers of pytest-xdist, launch on other ports.
    worker = int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0')[2:])
    own = {'PYTHON': sys.executable, 'OMP_NUM_THREADS': '1', 'PORT': str(29500 + worker)}
    return {**os.environ, 'PYTHONPATH': path, **own}


def run(repo: Path, project: Path, *command: object, ok: bool = True) -> str:
    """Run a command in the project's folder; returns its output."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=project,
        env=environment(repo),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert (done.returncode == 0) is ok, done.stdout[-4000:]
    return done.stdout


def kill_after_first_checkpoint(repo: Path, project: Path, work_dir: str, *command: object) -> None:
    """Start a training, and kill -9 all its processes as soon as there is a checkpoint."""
    process = subprocess.Popen(
        [str(part) for part in (*command, '--work-dir', work_dir)],
        cwd=project,
        env=environment(repo),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    marker, deadline = project / work_dir / 'last_checkpoint', time.time() + 120
    while not marker.exists() and time.time() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert marker.exists()
