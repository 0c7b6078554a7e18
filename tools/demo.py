"""DisAlign from end to end on synthetic scenes: train, calibrate, evaluate, compare."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmdisalign import config_path
from mmdisalign.analysis import SegmentationResult, class_table, summary_table
from mmdisalign.analysis.figures import plot_iou_by_frequency
from mmdisalign.data.scenes import SceneSpec, write_ade20k
from mmdisalign.engine.commands import run_tool

CONFIGS = {
    'stage1': config_path('demo/fcn_r18_scenes-96x96.py'),
    'stage2': config_path('demo/disalign_fcn_r18_scenes-96x96.py'),
}
CHECKPOINTS = {'stage1': 'iter_600.pth', 'stage2': 'iter_150.pth'}
SPLITS = ('train', 'val', 'test')
DEFAULT_OUT = Path('work_dirs/demo')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seed', type=int, default=0, help='seed of the scenes and of training')
    parser.add_argument('--out', type=Path, default=DEFAULT_OUT, help='where to write')
    return parser.parse_args()


def options(out: Path, stage: str, seed: int) -> list[str]:
    """Tell a config where the demo runs, and with which seed, unless it is where configs expect."""
    if (out, seed) == (DEFAULT_OUT, 0):
        return []
    chosen = [f'{split}_dataloader.dataset.data_root={out}/scenes' for split in SPLITS]
    chosen.append(f'randomness.seed={seed}')
    if stage == 'stage2':
        parts = ('model', 'val_evaluator', 'test_evaluator')
        chosen += [f'{part}.class_prior={out}/prior.json' for part in parts]
        chosen.append(f'load_from={out}/stage1/{CHECKPOINTS["stage1"]}')
    return ['--cfg-options', *chosen]


def run_stage(out: Path, stage: str, seed: int) -> SegmentationResult:
    """Train and evaluate a stage."""
    folder, chosen = out / stage, options(out, stage, seed)
    # --resume: a demo that was interrupted goes on, and one that is complete only reports.
    train = [CONFIGS[stage], '--work-dir', folder, '--resume', *chosen]
    run_tool('train', *train, log=out / f'{stage}_train.log')
    metric = {
        'type': 'mmdisalign.segmentation.LongTailIoUMetric',
        'class_prior': out / 'prior.json',
        'result_file': folder / 'result.json',
    }
    chosen = chosen or ['--cfg-options']
    chosen += [f'test_evaluator.{key}={value}' for key, value in metric.items()]
    test = [CONFIGS[stage], folder / CHECKPOINTS[stage], '--work-dir', folder, *chosen]
    run_tool('test', *test, log=out / f'{stage}_test.log')
    return SegmentationResult.load(folder / 'result.json')


def main() -> None:
    """Run the demo."""
    args = parse_args()
    out = args.out
    print(f'Synthetic long-tailed scenes: {out / "scenes"}')
    write_ade20k(SceneSpec(seed=args.seed), out / 'scenes', num_train=880, num_val=220)
    count = [CONFIGS['stage1'], '--out', out / 'prior.json', *options(out, 'stage1', args.seed)]
    run_tool('class_prior', *count, log=out / 'prior.log')
    before = run_stage(out, 'stage1', args.seed)
    after = run_stage(out, 'stage2', args.seed)
    print(f'\n{class_table(before, after)}\n')
    print(summary_table({'stage 1': before.summary, 'DisAlign': after.summary}))
    figure = out / 'iou_by_frequency.png'
    plot_iou_by_frequency(before, after, figure)
    print(f'\nIoU per class, before and after: {figure.resolve()}')


if __name__ == '__main__':
    main()
