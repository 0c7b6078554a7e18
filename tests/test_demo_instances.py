"""A real training run of an instance segmentor: calibration must show its effect."""

from __future__ import annotations

from pathlib import Path

from project import assert_only_the_calibration_changed, run_demo


def test_the_demo_raises_rare_instances_and_not_at_the_cost_of_ap(
    repo: Path, tmp_path: Path
) -> None:
    before, after = run_demo(repo, tmp_path, 'instances')
    for kind in ('bbox', 'segm'):
        # Over seeds 0 to 3, rare classes gained 2.7 to 5.2 points, all 1.7 to 2.7: see
        # benchmarks/README.md. On another CPU, other rounding makes another stage 1.
        assert after[f'{kind}_APr'] > before[f'{kind}_APr']
        assert after[f'{kind}_AP'] > before[f'{kind}_AP']
    demo = tmp_path / 'instances'
    assert_only_the_calibration_changed(demo, 'stage1/iter_400.pth', 'stage2/iter_200.pth')
