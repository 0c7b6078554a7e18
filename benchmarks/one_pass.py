"""Stage 2 in one pass against stage 2 by iterations, from the same stage-1 checkpoints."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import cifar10_lt
import numpy as np
from stage2 import BENCH, REPO

from mmdisalign.analysis import Evaluation, markdown_table, tables
from mmdisalign.calibration import ClassPrior
from mmdisalign.commands.launch import measure_tool, run_tool
from mmdisalign.defaults import IMAGES_PER_CLASS, PASSES

OUT = Path('work_dirs/bench/one_pass')
# Of one pass, with the arguments of calibrate.py.
WAYS = {
    'one pass': [],
    'one pass, chosen ρ': ['--exp-scale', 'auto'],
    'one pass, all images': ['--images-per-class', 'all'],
}
Summary = Mapping[str, Optional[float]]


@dataclass(frozen=True)
class Task:
    """A benchmark of stage 2.

    Attributes:
        name: Of the data set.
        config: Of stage 2.
        stage1: Checkpoint of stage 1.
        last: Name of the last checkpoint of an iterative stage 2.
        iterated: Images that this one passes.
        columns: Means that the table shows.
    """

    name: str
    config: Path
    stage1: Path
    last: str
    iterated: int
    columns: Sequence[str]

    def run(self, seeds: Sequence[int]) -> tuple[str, float, float]:
        """All ways for each seed, in turns.

        Returns:
            The table, and what an image takes in seconds, iterated and collected.
        """
        rows, measured = self.compare(seeds, ('iterative', *WAYS))
        iterated = statistics.mean(minutes for _, minutes, _ in measured['iterative'])
        collected = statistics.mean(self._collected(seed) for seed in seeds)
        return self.table(rows), 60 * iterated / self.iterated, collected

    def compare(self, seeds: Sequence[int], ways: Sequence[str]) -> tuple[list, dict[str, list]]:
        """Stage 1 and all ways for each seed, in turns.

        Returns:
            Rows of the table, and summary, minutes and memory of each run by way.
        """
        rows, measured = [], {way: [] for way in ways}
        for seed in seeds:
            for way, runs in measured.items():
                train = self._iterate if way == 'iterative' else self._calibrate
                checkpoint, minutes, memory = train(way, seed)
                runs.append((self._evaluate(checkpoint), minutes, memory))
                rows.append(self._row(f'{way}, seed {seed}', *runs[-1]))
        rows.sort(key=lambda row: list(measured).index(row[0].rpartition(',')[0]))
        rows.insert(0, self._row('stage 1', self._evaluate(self.stage1), None, None))
        for way, runs in measured.items():
            summaries, minutes, memories = zip(*runs)
            means = {key: statistics.mean(s[key] for s in summaries) for key in self.columns}
            mean_of = [statistics.mean(values) for values in (minutes, memories)]
            rows.append(self._row(f'{way}, mean', means, *mean_of))
        return rows, measured

    def table(self, rows: Sequence[Sequence[str]]) -> str:
        """The rows under their header."""
        header = ['', *(key.replace('_', ' ') for key in self.columns), 'minutes', 'peak GB']
        return f'{self.name}, per cent\n\n{markdown_table(header, rows)}'

    def _collected(self, seed: int) -> float:
        """Seconds that an image took, where all were collected."""
        log = self._out('one pass, all images', seed).with_suffix('.log').read_text()
        (images,) = re.search(r'([\d,]+) of [\d,]+ images', log).groups()
        (seconds,) = re.search(r'Collected in (\d+) s', log).groups()
        return int(seconds) / int(images.replace(',', ''))

    def _out(self, way: str, seed: int) -> Path:
        return OUT / f'{self.name}_{re.sub("[^a-z]+", "_", way)}_{seed}.pth'

    def _row(
        self, name: str, summary: Summary, minutes: Optional[float], memory: Optional[float]
    ) -> list[str]:
        cost = ['' if value is None else f'{value:.2f}' for value in (minutes, memory)]
        return [name, *(f'{summary[key]:.2f}' for key in self.columns), *cost]

    def _iterate(self, _: str, seed: int) -> tuple[Path, float, float]:
        folder = OUT / f'{self.name}_iterative_{seed}'
        # test.py evaluates; a loop evaluates at its end too, unless that is before it may begin.
        options = [f'randomness.seed={seed}', 'train_cfg.val_begin=1000000']
        options.append(f'load_from={self.stage1}')
        command = [self.config, '--work-dir', folder, '--cfg-options', *options]
        cost = measure_tool('train', *command, log=OUT / f'{folder.name}.log')
        return folder / self.last, *cost

    def _calibrate(self, way: str, seed: int) -> tuple[Path, float, float]:
        out = self._out(way, seed)
        command = [self.config, self.stage1, '--out', out, '--seed', seed, *WAYS[way]]
        cost = measure_tool('calibrate', *command, log=out.with_suffix('.log'))
        told = re.compile(r'.* images(?=.*, and )|(?:Collected|Fitted) in .*|ρ = [\d.]+')
        print(*told.findall(out.with_suffix('.log').read_text()), sep='; ')
        return out, *cost

    def _evaluate(self, checkpoint: Path) -> Summary:
        file = OUT / f'{self.name}_{checkpoint.parent.name}_{checkpoint.stem}.json'
        options = ['--cfg-options', f'test_evaluator.result_file={file}']
        command = [self.config, checkpoint, '--work-dir', OUT / 'test', *options]
        run_tool('test', *command, log=file.with_suffix('.log'))
        return Evaluation.load(file).summary


def run(seeds: Sequence[int]) -> str:
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
            150 * 8,
            tables.SEGMENTATION,
        ),
        Task(
            'facade',
            REPO / 'benchmarks/disalign_facade.py',
            BENCH / 'facade_stage1.pth',
            'iter_400.pth',
            400 * 4,
            [key for key in tables.DETECTION if 'fixed' not in key],
        ),
        Task(
            'cifar10_lt',
            cifar10_lt.CONFIGS / 'disalign.py',
            cifar10_lt.stage1(),
            f'epoch_{cifar10_lt.EPOCHS}.pth',
            cifar10_lt.EPOCHS * 12_406,
            tables.CLASSIFICATION,
        ),
    )
    found = {task.name: task.run(seeds) for task in tasks}
    per_image = {name: seconds for name, (_, *seconds) in found.items()}
    return '\n\n'.join([*(table for table, *_ in found.values()), computed(per_image)])


def computed(per_image: Mapping[str, Sequence[float]]) -> str:
    """What the released schedules would cost here, and one pass: computed, not measured.

    Args:
        per_image: Seconds of an image, iterated and collected, by the name of a task.
    """
    most = {  # of images that have a class
        'segmentation': np.full(150, np.inf),
        'detection': PASSES * ClassPrior.build('lvis_v1').images,
    }
    # So many at most: an image that is drawn for one of its classes counts for the others too.
    passed = {
        plugin: int(np.minimum(images, IMAGES_PER_CLASS[plugin]).sum())
        for plugin, images in most.items()
    }
    released = [
        ('ADE20K', 'camvid', 4000 * 16, passed['segmentation']),
        ('LVIS v1', 'facade', 9000 * 16, passed['detection']),
    ]
    rows = []
    for name, task, many, few in released:
        iterated, collected = per_image[task]
        minutes = many * iterated / 60, few * collected / 60
        cells = f'{many:,}', f'{minutes[0]:.0f}', f'{few:,}', f'{minutes[1]:.0f}'
        rows.append([name, *cells, f'{minutes[1] / minutes[0]:.2f}'])
    header = ['', 'images iterated', 'minutes', 'images passed, at most', 'minutes', 'ratio']
    without = 'without start, choice of the images and fit'
    return f'Computed from the seconds of an image, {without}\n\n{markdown_table(header, rows)}'
