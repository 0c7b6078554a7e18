"""Stage 2 of a stock checkpoint in ``../shared/bench``, over seeds and exponents."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from mmdisalign.analysis import Evaluation, summary_table
from mmdisalign.commands.launch import run_tool

REPO = Path(__file__).resolve().parent.parent
BENCH = REPO.parent / 'shared' / 'bench'
Summary = Mapping[str, Optional[float]]


def importable(*folders: Path) -> None:
    """Let the tools that are run import what is in folders."""
    before = os.environ.get('PYTHONPATH', '')
    os.environ['PYTHONPATH'] = os.pathsep.join([*map(str, folders), before])


def mean_cell(values: Sequence[float], before: Optional[Sequence[float]] = None) -> str:
    """The mean over seeds and, of as many values before, the least and the most that was gained."""
    mean = f'{statistics.mean(values):.2f}'
    if before is None:
        return mean
    gains = [own - old for own, old in zip(values, before)]
    return f'{mean} ({min(gains):+.2f} to {max(gains):+.2f})'


@dataclass(frozen=True)
class Stage2:
    """A benchmark of stage 2.

    Attributes:
        name: Name of the data set; its stage 1 is ``<name>_stage1.py`` and ``.pth``, its stage 2
            ``disalign_<name>.py`` beside this file.
        checkpoint: File name of the last checkpoint of stage 2.
        exp_scale: ρ that its documentation reports.
        columns: Means of the metric's summary that the table shows.
    """

    name: str
    checkpoint: str
    exp_scale: float
    columns: Sequence[str]

    @property
    def out(self) -> Path:
        """Where checkpoints, logs and results go."""
        return Path('work_dirs/bench') / self.name

    def run(self, seeds: Sequence[int], exp_scales: Sequence[float]) -> str:
        """Train stage 2 for each seed and exponent; returns the table of all and of the means."""
        if not BENCH.is_dir():
            return f'{self.name}: not run, its stage-1 model and data are not in {BENCH.parent}'
        importable(BENCH)
        # The untouched calibration is the identity, so this is stage 1.
        rows = [('stage 1', self._evaluate('stage1', BENCH / f'{self.name}_stage1.pth'), None)]
        for exp_scale in exp_scales or [self.exp_scale]:
            runs = [self._train(exp_scale, seed) for seed in seeds]
            rows += runs
            if len(runs) > 1:
                rows.append(self._mean(f'DisAlign, ρ = {exp_scale}, mean', runs))
        summaries = {name: summary for name, summary, _ in rows}
        minutes = {name: time for name, _, time in rows if time is not None}
        table = summary_table(summaries, self.columns, minutes)
        return f'{self.name}, validation, per cent\n\n{table}'

    def _train(self, exp_scale: float, seed: int) -> tuple[str, Summary, float]:
        name = f'stage2_rho{exp_scale}_seed{seed}'
        options = [f'model.exp_scale={exp_scale}', f'randomness.seed={seed}']
        # test.py evaluates; a loop evaluates at its end too, unless that is before it may begin.
        options.append('train_cfg.val_begin=1000000')
        train = [self._config, '--work-dir', self.out / name, '--cfg-options', *options]
        minutes = run_tool('train', *train, log=self.out / f'{name}.log')
        summary = self._evaluate(name, self.out / name / self.checkpoint)
        return f'DisAlign, ρ = {exp_scale}, seed {seed}', summary, minutes

    def _evaluate(self, name: str, checkpoint: Path) -> Summary:
        file = self.out / f'{name}.json'
        options = ['--work-dir', self.out / name, '--cfg-options']
        options.append(f'test_evaluator.result_file={file}')
        run_tool('test', self._config, checkpoint, *options, log=self.out / f'{name}_test.log')
        return Evaluation.load(file).summary

    @property
    def _config(self) -> Path:
        return REPO / 'benchmarks' / f'disalign_{self.name}.py'

    def _mean(
        self, name: str, runs: Sequence[tuple[str, Summary, float]]
    ) -> tuple[str, Summary, float]:
        means = {
            key: statistics.mean(summary[key] for _, summary, _ in runs) for key in self.columns
        }
        return name, means, statistics.mean(minutes for _, _, minutes in runs)
