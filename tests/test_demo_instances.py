"""A real training run of an instance segmentor: calibration must show its effect."""

from __future__ import annotations

from pathlib import Path

from project import assert_only_the_calibration_changed, run_demo


def test_the_demo_raises_rare_instances_and_not_at_the_cost_of_ap(
    repo: Path, tmp_path: Path
) -> None:
    before, after = run_demo(repo, tmp_path, 'instances')
    for kind in ('bbox', 'segm'):
        # Over seeds 0 to 2, rare classes gained 1 to 3 points, all 0.6 to 1.8; on another CPU, with
        # other rounding in stage 1, this seed gained 0.14.
        assert after[f'{kind}_APr'] > before[f'{kind}_APr']
        assert after[f'{kind}_AP'] > before[f'{kind}_AP']
    demo = tmp_path / 'instances'
    assert_only_the_calibration_changed(demo, 'stage1/iter_400.pth', 'stage2/iter_200.pth')
