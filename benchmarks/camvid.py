"""CamVid: a stock mmseg checkpoint against its calibrated self, over several seeds."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping
from pathlib import Path

from mmdisalign.analysis import SegmentationResult, summary_table
from mmdisalign.analysis.tables import SUMMARY
from mmdisalign.engine.commands import run_tool

REPO = Path(__file__).resolve().parent.parent
BENCH = REPO.parent / 'shared' / 'bench'
OUT = Path('work_dirs/bench/camvid')
STAGE_1, STAGE_2 = BENCH / 'camvid_stage1.py', REPO / 'benchmarks' / 'disalign_camvid.py'


def run(seeds: list[int], exp_scales: list[float]) -> str:
    """Train stage 2 for each seed and exp_scale; returns the table of all and of the means."""
    if not BENCH.is_dir():
        return f'CamVid: not run, the stage-1 model and the data are not in {BENCH.parent}'
    os.environ['PYTHONPATH'] = os.pathsep.join([str(BENCH), os.environ.get('PYTHONPATH', '')])
    run_tool('class_prior', STAGE_1, '--out', OUT / 'prior.json', log=OUT / 'prior.log')
    # The untouched calibration is the identity, so this is stage 1.
    results = {'stage 1': _evaluate('stage1', BENCH / 'camvid_stage1.pth')}
    minutes = {}
    for exp_scale in exp_scales:
        name = f'DisAlign, ρ = {exp_scale}'
        for seed in seeds:
            row = f'{name}, seed {seed}'
            results[row], minutes[row] = _train(exp_scale, seed)
        rows = [f'{name}, seed {seed}' for seed in seeds]
        if len(rows) > 1:
            results[f'{name}, mean'] = _mean([results[row] for row in rows])
            minutes[f'{name}, mean'] = statistics.mean(minutes[row] for row in rows)
    return f'CamVid, validation, per cent\n\n{summary_table(results, minutes)}'


def _train(exp_scale: float, seed: int) -> tuple[Mapping[str, float], float]:
    name = f'stage2_rho{exp_scale}_seed{seed}'
    options = [f'model.exp_scale={exp_scale}', f'randomness.seed={seed}']
    train = [STAGE_2, '--work-dir', OUT / name, '--cfg-options', *options]
    minutes = run_tool('train', *train, log=OUT / f'{name}.log')
    return _evaluate(name, OUT / name / 'iter_150.pth'), minutes


def _evaluate(name: str, checkpoint: Path) -> Mapping[str, float]:
    file = OUT / f'{name}.json'
    options = ['--work-dir', OUT / name, '--cfg-options', f'test_evaluator.result_file={file}']
    run_tool('test', STAGE_2, checkpoint, *options, log=OUT / f'{name}_test.log')
    return SegmentationResult.load(file).summary


def _mean(summaries: list[Mapping[str, float]]) -> Mapping[str, float]:
    return {key: statistics.mean(summary[key] for summary in summaries) for key in SUMMARY}
