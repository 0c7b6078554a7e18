"""Every second-stage method on the stage-1 checkpoints of the other benchmarks, compared."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cifar10_lt
from stage2 import BENCH, REPO, importable, mean_cell

from mmdisalign.analysis import markdown_table, value_text
from mmdisalign.analysis.methods import name_of
from mmdisalign.commands.launch import measure_tool
from mmdisalign.defaults import methods_of

OUT = Path('work_dirs/bench/methods')
Row = Mapping[str, Any]
# What calibrate.py is asked for: one method, as it was calibrated before; all; what to fit to.
WAYS = {
    'one method': ['--choose', 'train'],
    'methods': ['--method', 'best'],
    'sources': ['--fit-on', 'best'],
}


@dataclass(frozen=True)
class Task:
    """A stage 1.

    Attributes:
        name: Of the data set.
        config: Of stage 1.
        checkpoint: Of stage 1.
    """

    name: str
    config: Path
    checkpoint: Path

    def run(self, seeds: Sequence[int]) -> str:
        """All ways for each seed, one method for the first alone; returns their tables."""
        contents, seconds = {way: [] for way in WAYS}, {way: [] for way in (*WAYS, 'validation')}
        for seed in seeds:
            cache = OUT / f'{self.name}_{seed}.samples'
            for way, options in WAYS.items():
                out = OUT / f'{self.name}_{way.replace(" ", "_")}_{seed}.pth'
                command = [self.config, self.checkpoint, '--out', out, '--seed', seed, *options]
                if way != 'one method':  # the last takes the samples of the one before
                    command += ['--cache-dir', cache]
                elif seed != seeds[0]:
                    continue
                took, _ = measure_tool('calibrate', *command, log=out.with_suffix('.log'))
                seconds[way].append(60 * took)
                if way != 'one method':
                    contents[way].append(json.loads(methods_of(out).read_text(encoding='utf-8')))
            seconds['validation'].append(_validated(OUT / f'{self.name}_methods_{seed}.log'))
            shutil.rmtree(cache)
        first = {way: took[0] for way, took in seconds.items()}
        ratio = first['methods'] / (first['one method'] + first['validation'])
        tables = [_table(contents[way]) for way in ('methods', 'sources')]
        return (
            f'{self.name}: {_chosen(contents["methods"])}; {first["methods"]:.0f} s, '
            f'{ratio:.2f} of one method and the validation pass\n\n{tables[0]}\n\n'
            f'What disalign is fitted to: {_chosen(contents["sources"])}\n\n{tables[1]}'
        )


def _validated(log: Path) -> float:
    """Seconds that the pass over the validation images took."""
    (seconds,) = re.search(r'Validation images passed in (\d+) s', log.read_text()).groups()
    return float(seconds)


def _chosen(contents: Sequence[Row]) -> str:
    """What was best on the images that chose, seed by seed, and what the others say of it."""
    metric, found = contents[0]['metric'], []
    for content in contents:
        best = max(
            (row for row in content['methods'] if row['refused'] is None),
            key=lambda row: row['chosen_by'],
        )
        gain = '' if best['gains'] is None else ' {:+.2f} to {:+.2f}'.format(*best['gains'][metric])
        found.append(f'{name_of(best) if best["method"] else "stage 1"}{gain}')
    return f'chosen by {metric}: {", ".join(found)}'


def _table(contents: Sequence[Row]) -> str:
    """Means over the seeds, of the images that report, and the numbers that were chosen."""
    before = [content['methods'][0]['values'] for content in contents]
    keys = list(before[0])
    rows = [['stage 1', '', *(mean_cell([own[key] for own in before]) for key in keys)]]
    for own in zip(*(content['methods'][1:] for content in contents)):
        if any(row['refused'] for row in own):
            continue
        numbers = [value_text(row['value']) for row in own if row['value'] is not None]
        cells = []
        for key in keys:
            values = [row['values'][key] for row in own]
            cells.append(mean_cell(values, [old[key] for old in before]))
        rows.append([name_of(own[0]), ', '.join(numbers), *cells])
    return markdown_table(['', 'value', *keys], rows)


def run(seeds: Sequence[int]) -> str:
    """The tables of all data sets."""
    if not BENCH.is_dir():
        return f'methods: not run, the stage-1 models are not in {BENCH}'
    importable(BENCH)
    cifar10_lt.unpack()
    names = ('camvid', 'facade', 'signs')
    tasks = [Task(n, BENCH / f'{n}_stage1.py', BENCH / f'{n}_stage1.pth') for n in names]
    cifar = REPO / 'benchmarks/cifar10_lt/stage1.py'
    tasks.append(Task('cifar10_lt', cifar, cifar10_lt.stage1()))
    return '\n\n'.join(task.run(seeds) for task in tasks)
