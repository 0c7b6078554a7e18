"""Stage 2 in one pass against stage 2 by iterations, from the same stage-1 checkpoints."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import cifar10_lt
from stage2 import BENCH, REPO

from mmdisalign.analysis import Evaluation, markdown_table, tables
from mmdisalign.engine.commands import measure_tool, run_tool

OUT = Path('work_dirs/bench/one_pass')
Summary = Mapping[str, Optional[float]]


@dataclass(frozen=True)
class Task:
    """A benchmark of stage 2.

    Attributes:
        name: Of the data set.
        config: Of stage 2.
        stage1: Checkpoint of stage 1.
        last: Name of the last checkpoint of an iterative stage 2.
        columns: Means that the table shows.
    """

    name: str
    config: Path
    stage1: Path
    last: str
    columns: Sequence[str]

    def run(self, seeds: Sequence[int]) -> str:
        """Both ways for each seed, in turns; returns the table."""
        rows, measured = [], {'iterative': [], 'one pass': []}
        for seed in seeds:
            for way, train in (('iterative', self._iterate), ('one pass', self._calibrate)):
                checkpoint, minutes, memory = train(seed)
                summary = self._evaluate(checkpoint)
                measured[way].append((summary, minutes, memory))
                rows.append(self._row(f'{way}, seed {seed}', summary, minutes, memory))
        rows.insert(0, self._row('stage 1', self._evaluate(self.stage1), None, None))
        for way, own in measured.items():
            summaries, minutes, memories = zip(*own)
            means = {key: statistics.mean(s[key] for s in summaries) for key in self.columns}
            mean_of = [statistics.mean(values) for values in (minutes, memories)]
            rows.append(self._row(f'{way}, mean', means, *mean_of))
        header = ['', *(key.replace('_', ' ') for key in self.columns), 'minutes', 'peak GB']
        return f'{self.name}, per cent\n\n{markdown_table(header, rows)}'

    def _row(
        self, name: str, summary: Summary, minutes: Optional[float], memory: Optional[float]
    ) -> list[str]:
        cost = ['' if value is None else f'{value:.2f}' for value in (minutes, memory)]
        return [name, *(f'{summary[key]:.2f}' for key in self.columns), *cost]

    def _iterate(self, seed: int) -> tuple[Path, float, float]:
        folder = OUT / f'{self.name}_iterative_{seed}'
        # test.py evaluates; a loop evaluates at its end too, unless that is before it may begin.
        options = [f'randomness.seed={seed}', 'train_cfg.val_begin=1000000']
        command = [self.config, '--work-dir', folder, '--cfg-options', *options]
        cost = measure_tool('train', *command, log=OUT / f'{folder.name}.log')
        return folder / self.last, *cost

    def _calibrate(self, seed: int) -> tuple[Path, float, float]:
        out = OUT / f'{self.name}_one_pass_{seed}.pth'
        command = [self.config, self.stage1, '--out', out, '--seed', seed]
        cost = measure_tool('calibrate', *command, log=out.with_suffix('.log'))
        seconds = re.findall(
            r'(?:Collected|Fitted) in (\d+) s', out.with_suffix('.log').read_text()
        )
        print(f'collected in {seconds[0]} s, fitted in {seconds[1]} s')
        return out, *cost

    def _evaluate(self, checkpoint: Path) -> Summary:
        file = OUT / f'{self.name}_{checkpoint.parent.name}_{checkpoint.stem}.json'
        options = ['--cfg-options', f'test_evaluator.result_file={file}']
        command = [self.config, checkpoint, '--work-dir', OUT / 'test', *options]
        run_tool('test', *command, log=file.with_suffix('.log'))
        return Evaluation.load(file).summary


def run(seeds: Sequence[int], names: Sequence[str] = ('camvid', 'facade', 'cifar10_lt')) -> str:
    """The tables of all data sets."""
    if not BENCH.is_dir():
        return f'one pass: not run, the stage-1 models are not in {BENCH}'
    cifar10_lt.unpack()
    tasks = (
        Task(
            'camvid',
            REPO / 'benchmarks/disalign_camvid.py',
            BENCH / 'camvid_stage1.pth',
            'iter_150.pth',
            tables.SEGMENTATION,
        ),
        Task(
            'facade',
            REPO / 'benchmarks/disalign_facade.py',
            BENCH / 'facade_stage1.pth',
            'iter_400.pth',
            [key for key in tables.DETECTION if 'fixed' not in key],
        ),
        Task(
            'cifar10_lt',
            cifar10_lt.CONFIGS / 'disalign.py',
            cifar10_lt.stage1(),
            f'epoch_{cifar10_lt.EPOCHS}.pth',
            tables.CLASSIFICATION,
        ),
    )
    return '\n\n'.join(task.run(seeds) for task in tasks if task.name in names)
