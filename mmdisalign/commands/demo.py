"""DisAlign from end to end on synthetic scenes: train, calibrate, evaluate, compare."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .. import config_path
from ..analysis import Evaluation, class_table, summary_table, tables
from ..data.scenes import SceneSpec, write_ade20k, write_lvis
from ..defaults import DEMO_TASKS
from ..engine.configs import PLUGINS
from .launch import fork_tool

NUM_TRAIN, NUM_VAL = 880, 220


@dataclass(frozen=True)
class Task:
    """One half of the demo.

    Attributes:
        name: What is trained.
        library: What it needs.
        config: Stage-1 config below ``configs/demo``; that of stage 2 has ``disalign_`` in front.
        iterations: Of stage 1 and stage 2.
        write: Writes the scenes in the task's format.
        prior: Class statistics, below the scenes; None if they are counted from the annotations.
        metric: Options of the evaluator that tells groups apart.
        columns: Means that the summary shows.
        values: Values per class that the table shows.
        predictions: Where ``test.py --out`` saves them, below a stage.
    """

    name: str
    library: str
    config: str
    iterations: tuple[int, int]
    write: Callable[..., Path]
    prior: str | None
    metric: dict[str, str]
    columns: tuple[str, ...]
    values: tuple[str, ...]
    predictions: str


TASKS = (
    Task(
        name=DEMO_TASKS[0],
        library='mmseg',
        config='fcn_r18_scenes-96x96.py',
        iterations=(400, 150),
        write=write_ade20k,
        prior=None,
        metric={'type': 'mmdisalign.segmentation.LongTailIoUMetric'},
        columns=tables.SEGMENTATION,
        values=('Acc', 'IoU'),
        predictions='maps',
    ),
    Task(
        name=DEMO_TASKS[1],
        library='mmdet',
        config='mask-rcnn_r18_fpn_scenes-96x96.py',
        iterations=(400, 200),
        write=write_lvis,
        prior='annotations/scenes_train.json',
        metric={'ann_file': 'annotations/scenes_val.json'},
        columns=tables.DETECTION,
        values=('bbox_AP', 'segm_AP'),
        predictions='predictions.pkl',
    ),
)


@dataclass(frozen=True)
class Demo:
    """A task, with the place and the seed of its run."""

    task: Task
    out: Path
    seed: int

    @property
    def scenes(self) -> Path:
        return self.out / 'scenes'

    @property
    def prior(self) -> Path:
        return self.scenes / self.task.prior if self.task.prior else self.out / 'prior.json'

    def run(self) -> None:
        """Train, calibrate and report."""
        print(f'\nSynthetic long-tailed scenes, {self.task.name}: {self.scenes}')
        self.task.write(
            SceneSpec(seed=self.seed), self.scenes, num_train=NUM_TRAIN, num_val=NUM_VAL
        )
        if not self.task.prior:
            count = [self._config(1), '--out', self.prior, '--cfg-options', *self._common()]
            fork_tool('class_prior', *count, log=self.out / 'prior.log')
        before, after = self._stage(1), self._stage(2)
        print(f'\n{class_table(before, after, self.task.values)}\n')
        summaries = {'stage 1': before.summary, 'DisAlign': after.summary}
        print(summary_table(summaries, self.task.columns))
        print(f'\nWhat changed, and where: {self._report()}', flush=True)

    def _report(self) -> Path:
        """Write the report; returns its page."""
        folder = self.out / 'report'
        predictions = [self._predictions(stage) for stage in (1, 2)]
        arguments = [*predictions, '--names', 'stage 1', 'DisAlign', '--images', 4]
        arguments += ['--title', f'Synthetic scenes, {self.task.name}', '--prior', self.prior]
        arguments += ['--config', self._config(2), '--checkpoint', self._checkpoint(2)]
        options = [*self._common(), f'model.class_prior={self.prior}']
        arguments += ['--out', folder, '--cfg-options', *options]
        fork_tool('analyze', *arguments, log=self.out / 'report.log')
        return (folder / 'index.html').resolve()

    def _stage(self, stage: int) -> Evaluation:
        """Train and evaluate a stage."""
        folder = self.out / f'stage{stage}'
        options = ['--work-dir', folder, '--cfg-options', *self._common(), *self._metric(stage)]
        # test.py evaluates; a loop evaluates at its end too, unless that is before it may begin.
        options.append('train_cfg.val_begin=1000000')
        if stage == 2:
            options += [f'load_from={self._checkpoint(1)}', f'model.class_prior={self.prior}']
        # --resume: a demo that was interrupted goes on, and one that is complete only reports.
        train = [self._config(stage), '--resume', *options]
        fork_tool('train', *train, log=self.out / f'stage{stage}_train.log')
        test = [self._config(stage), self._checkpoint(stage), '--out', self._predictions(stage)]
        fork_tool('test', *test, *options, log=self.out / f'stage{stage}_test.log')
        return Evaluation.load(self._result(stage))

    def _metric(self, stage: int) -> list[str]:
        metric = {
            **self.task.metric,
            'class_prior': self.prior,
            'result_file': self._result(stage),
        }
        if 'ann_file' in metric:
            metric['ann_file'] = self.scenes / metric['ann_file']
        evaluators = ('val_evaluator', 'test_evaluator')
        return [f'{name}.{key}={value}' for name in evaluators for key, value in metric.items()]

    def _common(self) -> list[str]:
        splits = ('train', 'val', 'test')
        roots = [f'{split}_dataloader.dataset.data_root={self.scenes}' for split in splits]
        return [*roots, f'randomness.seed={self.seed}']

    def _result(self, stage: int) -> Path:
        return self.out / f'stage{stage}' / 'result.json'

    def _predictions(self, stage: int) -> Path:
        return self.out / f'stage{stage}' / self.task.predictions

    def _config(self, stage: int) -> Path:
        return config_path(f'demo/{"disalign_" if stage == 2 else ""}{self.task.config}')

    def _checkpoint(self, stage: int) -> Path:
        return self.out / f'stage{stage}' / f'iter_{self.task.iterations[stage - 1]}.pth'


def demo(args: argparse.Namespace) -> None:
    """Run the halves of the demo that the command line names, and whose library is there."""
    for task in TASKS:
        if args.tasks and task.name not in args.tasks:
            continue
        if importlib.util.find_spec(task.library):
            importlib.import_module(f'mmdisalign.{PLUGINS[task.library]}')  # once for its tools
            Demo(task, args.out / task.name, args.seed).run()
        else:
            print(f'\n{task.name}: left out, {task.library} is not installed')
