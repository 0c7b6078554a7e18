"""Print the benchmark tables: ``make bench``, or ``python benchmarks/run.py camvid``."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import cifar10_lt
import inference
import iteration
import lvis_eval
import tiled_loss
from stage2 import BENCH, Stage2

from mmdisalign.analysis import tables
from mmdisalign.engine.commands import run_tool

CAMVID = Stage2('camvid', 'iter_150.pth', 0.6, tables.SEGMENTATION)
FACADE = Stage2('facade', 'iter_400.pth', 0.4, tables.DETECTION)


def camvid(args: argparse.Namespace) -> str:
    """CamVid, with the prior counted from its training annotations."""
    if BENCH.is_dir():
        count = [BENCH / 'camvid_stage1.py', '--out', CAMVID.out / 'prior.json']
        run_tool('class_prior', *count, log=CAMVID.out / 'prior.log')
    return CAMVID.run(args.seeds, args.exp_scale)


BENCHMARKS: dict[str, Callable[[argparse.Namespace], str]] = {
    'inference': lambda args: inference.run(),
    'iteration': lambda args: iteration.run(),
    'tiled_loss': lambda args: tiled_loss.run(),
    'camvid': camvid,
    'facade': lambda args: FACADE.run(args.seeds, args.exp_scale),
    'cifar10_lt': lambda args: cifar10_lt.run(args.seeds, args.exp_scale or [1.2]),
    'lvis_eval': lambda args: lvis_eval.run(),
}


def main() -> None:
    """Run the benchmarks that the command line names, by default all."""
    parser = argparse.ArgumentParser(description='Run the benchmarks')
    parser.add_argument('names', nargs='*', help=f'{", ".join(BENCHMARKS)}; default: all')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--exp-scale', type=float, nargs='+', help='default: as documented')
    args = parser.parse_args()
    unknown = set(args.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f'no such benchmark: {", ".join(unknown)}')
    for name in args.names or BENCHMARKS:
        print(f'\n{BENCHMARKS[name](args)}\n', flush=True)


if __name__ == '__main__':
    main()
