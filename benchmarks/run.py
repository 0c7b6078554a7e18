"""Print the benchmark tables: ``make bench``, or ``python benchmarks/run.py camvid``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import cifar10_lt
import cifar10_lt_methods
import detection_losses
import families
import gpu
import inference
import iteration
import lvis_eval
import methods
import one_pass
import rare_classes
import tiled_loss
from stage2 import BENCH, Stage2, importable

from mmdisalign.analysis import tables
from mmdisalign.commands.launch import run_tool

CAMVID = Stage2('camvid', 'iter_150.pth', 0.6, tables.SEGMENTATION)
FACADE = Stage2('facade', 'iter_400.pth', 0.4, tables.DETECTION)


def count_camvid() -> None:
    """Count the prior that CamVid's config names."""
    importable(BENCH)
    count = [BENCH / 'camvid_stage1.py', '--out', CAMVID.out / 'prior.json']
    run_tool('class_prior', *count, log=CAMVID.out / 'prior.log')


def camvid(args: argparse.Namespace) -> str:
    """CamVid, with the prior counted from its training annotations."""
    if BENCH.is_dir():
        count_camvid()
    return CAMVID.run(args.seeds, args.exp_scale)


def one_pass_tables(args: argparse.Namespace) -> str:
    """Stage 2 in one pass and by iterations; CamVid's prior is counted."""
    if BENCH.is_dir():
        count_camvid()
    return one_pass.run(args.seeds)


def camvid_mask2former(args: argparse.Namespace) -> str:
    """Mask2Former on CamVid, whose prior is counted."""
    if BENCH.is_dir():
        count_camvid()
    return families.camvid_mask2former(args.seeds)


def gpu_tables() -> str:
    """Ours against plain forms on a GPU; without one, what a CPU can."""
    out = Path('work_dirs/bench/gpu.json')
    gpu.measure(list(gpu.PARTS), out)
    return gpu.tables(json.loads(out.read_text(encoding='utf-8')))


BENCHMARKS: dict[str, Callable[[argparse.Namespace], str]] = {
    'inference': lambda args: inference.run(),
    'iteration': lambda args: iteration.run(),
    'tiled_loss': lambda args: tiled_loss.run(),
    'camvid': camvid,
    'facade': lambda args: FACADE.run(args.seeds, args.exp_scale),
    'cifar10_lt': lambda args: cifar10_lt.run(args.seeds, args.exp_scale or [1.2]),
    'cifar10_lt_methods': lambda args: cifar10_lt_methods.run(args.seeds),
    'one_pass': one_pass_tables,
    'methods': lambda args: methods.run(args.seeds),
    'signs': lambda args: families.signs(args.seeds),
    'signs_retinanet': lambda args: families.signs_retinanet(args.seeds),
    'camvid_mask2former': camvid_mask2former,
    'rare_classes': lambda args: rare_classes.run(args.seeds),
    'detection_losses': lambda args: detection_losses.run(args.seeds),
    'lvis_eval': lambda args: lvis_eval.run(),
    'gpu': lambda args: gpu_tables(),
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
