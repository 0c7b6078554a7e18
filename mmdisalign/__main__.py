"""The tools as one command: ``mmdisalign calibrate CONFIG CHECKPOINT --out FILE`` and so on."""

from __future__ import annotations

import runpy
import sys

from mmdisalign import __version__, cli, shipped

COMMANDS = {
    'analyze': ('analyze', 'compare predictions, as a page'),
    'calibrate': ('calibrate', 'calibrate a trained model in one pass over its training data'),
    'convert-released': ('convert_released', "read the authors' released checkpoints"),
    'demo': ('demo', 'train both stages on small synthetic data, and report'),
    'prior': ('class_prior', 'count the classes of the training data'),
    'test': ('test', 'evaluate a checkpoint'),
    'train': ('train', 'train a config'),
}


def main() -> None:
    """Run the tool that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else '--help'
    if name == '--version':
        print(__version__)
        return
    if name in ('-h', '--help'):
        print(_usage())
        return
    # A tool may be called by its file, too.
    name = next((own for own, (script, _) in COMMANDS.items() if script == name), name)
    if name not in COMMANDS:
        print(f'{_usage()}\n\nerror: no command {name}', file=sys.stderr)
        sys.exit(2)
    script, _ = COMMANDS[name]
    del sys.argv[1]
    cli.PROGRAM = f'mmdisalign {name}'
    runpy.run_path(str(shipped('tools') / f'{script}.py'), run_name='__main__')


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f'  {name:{width}}  {does}' for name, (_, does) in COMMANDS.items()]
    return '\n'.join(['usage: mmdisalign COMMAND [--help] ...', '', *lines])


if __name__ == '__main__':
    main()
