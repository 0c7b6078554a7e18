"""Print the benchmark tables: ``make bench``, or ``python benchmarks/run.py camvid``."""

from __future__ import annotations

import argparse

import camvid
import inference


def main() -> None:
    """Run the benchmarks that the command line names, by default all."""
    parser = argparse.ArgumentParser(description='Run the benchmarks')
    parser.add_argument('names', nargs='*', help='camvid, inference; default: both')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--exp-scale', type=float, nargs='+', default=[0.6])
    args = parser.parse_args()
    names = args.names or ['inference', 'camvid']
    unknown = set(names) - {'inference', 'camvid'}
    if unknown:
        parser.error(f'no such benchmark: {", ".join(unknown)}')
    if 'inference' in names:
        print(f'\n{inference.run()}\n', flush=True)
    if 'camvid' in names:
        print(f'\n{camvid.run(args.seeds, args.exp_scale)}\n', flush=True)


if __name__ == '__main__':
    main()
