"""What the command lines of the tools have in common; it imports nothing that takes long."""

from __future__ import annotations

import argparse
import dis
import gc
import os
import runpy
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from io import FileIO, TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Any, Optional, Union

from mmdisalign import shipped

DEBUG = 'MMDISALIGN_DEBUG'
PROGRAM: Optional[str] = None  # what a usage calls the tool; None: its file


def tool_parser(description: str) -> argparse.ArgumentParser:
    """A parser with ``--debug``, which is also what the environment variable is for.

    Args:
        description: What the tool does.
    """
    parser = argparse.ArgumentParser(PROGRAM, description=description)
    parser.add_argument(
        '--debug',
        action=_Debug,
        nargs=0,
        help=f'show the traceback of an error; so does {DEBUG}=1 in the environment',
    )
    return parser


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add OpenMMLab's ``--cfg-options``, which :func:`mmdisalign.engine.read_config` takes."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_Settings,
        metavar='KEY=VALUE',
        help='settings that override the config; lists as key="[a,b]" or key=a,b',
    )


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that OpenMMLab's train.py and test.py share."""
    parser.add_argument('--work-dir', help='folder of logs and checkpoints')
    add_config_options(parser)
    add_launcher(parser)


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Add what OpenMMLab's launchers pass to each process."""
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='job launcher',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def run(main: Callable[[], None]) -> None:
    """Run a tool; an error that was foreseen is a line or two on stderr, and exit status 1.

    Foreseen is what a ``raise`` statement of this package, or of its tools, says. Anything else is
    a mistake of ours, or of a library, and keeps its traceback, as all do with ``--debug``.

    Args:
        main: Takes its arguments from ``sys.argv``.
    """
    # Each is said again by the error that follows it, or is of no concern to who runs a tool.
    warnings.filterwarnings('ignore', message=r'mmdisalign\[')
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated')
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        advice = '' if is_foreseen(error) else _advice(error)
        if os.environ.get(DEBUG) or advice is None:
            raise
        print(f'error: {_short(error)}{advice}', file=sys.stderr)
        sys.exit(1)


def be_script(command: list[str], folder: str, env: Mapping[str, str], log: str) -> None:
    """Be, in a fork, as a process that was started with a script.

    Args:
        command: The script and its arguments.
        folder: Folder to run it in.
        env: Its environment.
        log: File to whose end goes its output.
    """
    gc.freeze()  # what was imported stays; mmengine collects garbage for each data set
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    files = (FileIO(stream, 'w', closefd=False) for stream in (1, 2))
    sys.stdout, sys.stderr = (
        TextIOWrapper(file, 'utf-8', 'backslashreplace', line_buffering=True) for file in files
    )
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = list(command)
    paths = filter(None, env.get('PYTHONPATH', '').split(os.pathsep))
    sys.path[:0] = [str(Path(command[0]).parent), *paths]
    runpy.run_path(command[0], run_name='__main__')


def check_files(*paths: Union[str, Path, None]) -> None:
    """Raise FileNotFoundError if a file of the command line is not there, before what takes long.

    Args:
        paths: Files; what is None, or an address, passes.
    """
    for path in filter(None, paths):
        if '://' not in str(path) and not Path(path).expanduser().exists():
            raise FileNotFoundError(f'there is no {path} (seen from {Path.cwd()})')


def is_foreseen(error: BaseException) -> bool:
    """Whether a ``raise`` statement of this package, or of its tools, made an error."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and _is_raise(last) and _is_own(last.tb_frame.f_code.co_filename)


def _advice(error: Exception) -> Optional[str]:
    """What to do about an error that a library makes of a user's mistake; None of any other."""
    kind, text = type(error).__name__, str(error)
    if kind == 'KeyError' and 'is not in the' in text and 'registry' in text:
        return ' (misspelt, or of a package that custom_imports does not name)'
    if kind in ('ImportError', 'RuntimeError') and 'is not installed, please install' in text:
        return ''  # as mmdet says of panopticapi
    if kind == 'ModuleNotFoundError':
        return ': install it, or look at custom_imports'
    if kind == 'OutOfMemoryError':
        return '. Take a smaller train_dataloader.batch_size, or a GPU with more memory'
    return None


def _is_raise(at: TracebackType) -> bool:
    # An error of numpy's, say, has no frame of its own: it seems to come from the line that called.
    code = at.tb_frame.f_code.co_code
    return dis.opname[code[at.tb_lasti]] == 'RAISE_VARARGS'


def _is_own(file: str) -> bool:
    package, tools = Path(__file__).resolve().parent, shipped('tools').resolve()
    return not {package, tools}.isdisjoint(Path(file).resolve().parents)


def _short(error: Exception) -> str:
    """The message, in two lines at most."""
    # The text of a KeyError is the repr of its message.
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    first, *rest = [line.strip() for line in str(message).splitlines() if line.strip()] or ['']
    return '\n'.join(filter(None, [first, ' '.join(rest)]))


class _Debug(argparse.Action):
    """Sets the environment variable, so that the processes that a tool starts see it, too."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, *_: Any) -> None:
        os.environ[DEBUG] = '1'


class _Settings(argparse.Action):
    """Keeps ``KEY=VALUE`` as it is: who reads values needs mmengine, which takes seconds."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[str],
        option: Optional[str] = None,
    ) -> None:
        wrong = [value for value in values if not value.partition('=')[0] or '=' not in value]
        if wrong:
            parser.error(f'{option} takes KEY=VALUE, got {wrong[0]}')
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or ()), *values])
