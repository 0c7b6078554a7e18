"""α of a de-confounded classifier, chosen after training; its scores are those of the head."""

from __future__ import annotations

import copy
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope
from PIL import Image
from project import CLASSIFIER, run, save_untrained
from torch import Tensor, nn

import mmdisalign
from mmdisalign.calibration import CausalLinear, ScoreLayout, VMFLinear, calibrate_layer
from mmdisalign.onepass import fit, method_named
from mmdisalign.onepass.folding import check_foldable, folded_state

COUNTS = (9, 4, 2, 2, 1)
LABELS = torch.arange(24) % 5
REFUSED = 'tde cannot be fitted: the classifier is not a CausalLinear'
ALPHAS = (0.0, 0.1, 1.0, 1.5, 4.5)


def layer_of(num_heads: int = 2, alpha: float = 3.0) -> CausalLinear:
    """A classifier with something to subtract, at test."""
    torch.manual_seed(0)
    layer = CausalLinear(8, 5, num_heads=num_heads, alpha=alpha).requires_grad_(False).eval()
    layer.direction.copy_(torch.rand(8))
    return layer


def features_of() -> Tensor:
    return torch.randn(24, 8, generator=torch.Generator().manual_seed(1)) + 0.5


def with_alpha(layer: CausalLinear, alpha: float) -> CausalLinear:
    other = copy.deepcopy(layer)
    other.alpha = alpha
    return other


@pytest.mark.parametrize('num_heads', [1, 2, 4])
@pytest.mark.parametrize('alpha', ALPHAS)
def test_the_scores_are_those_of_the_classifier_with_that_alpha(
    alpha: float, num_heads: int
) -> None:
    layer, features = layer_of(num_heads), features_of()
    logits = layer(features)
    fitted = fit(features, logits, LABELS, COUNTS, 'tde', alpha, tde=layer)
    assert fitted.value == alpha
    expected = with_alpha(layer, alpha)(features)
    torch.testing.assert_close(fitted(features, logits), expected, rtol=1e-5, atol=1e-5)
    # As samples are kept; what there is in single precision are the scores.
    near = fitted(features.half(), logits)
    torch.testing.assert_close(near, expected, rtol=5e-3, atol=5e-3)


def test_alpha_0_is_the_plain_classifier_and_its_own_alpha_changes_nothing() -> None:
    layer, features = layer_of(), features_of()
    logits = layer(features)
    plain, same = (
        fit(features, logits, LABELS, COUNTS, 'tde', alpha, tde=layer)(features, logits)
        for alpha in (0.0, 3.0)
    )
    torch.testing.assert_close(plain, copy.deepcopy(layer).train()(features), rtol=1e-5, atol=1e-5)
    assert torch.equal(same, logits) and not torch.allclose(plain, logits)


def test_the_default_is_that_of_the_head_and_the_released_values_are_tried() -> None:
    values = method_named('tde').VALUES
    assert values[0] == CausalLinear(8, 5).alpha and len(values) == len(set(values))
    assert {0.0, 1.0, 1.5, 3.0} <= set(values)


def folded_into(layer: CausalLinear, alpha: float) -> dict[str, Tensor]:
    """The state of the stock model of one with a chosen α."""
    features, model = features_of(), nn.Sequential(copy.deepcopy(layer))
    scores = fit(features, layer(features), LABELS, COUNTS, 'tde', alpha, tde=layer).scores
    calibrate_layer(model[0], ScoreLayout(5))
    return folded_state(model, {'0.calibration': scores})


def test_the_chosen_alpha_is_in_the_checkpoint_and_counts() -> None:
    layer, features = layer_of(), features_of()
    state = folded_into(layer, 1.5)
    assert set(state) == {'0.weight', '0.direction', '0.chosen'}
    stock = nn.Sequential(CausalLinear(8, 5)).eval()
    with pytest.warns(UserWarning, match=r'has α = 1\.5, chosen .* not the option alpha = 3'):
        stock.load_state_dict(state)
    expected = with_alpha(layer, 1.5)(features)
    assert torch.equal(stock(features), expected)
    assert torch.equal(nn.Sequential(layer)[0](features), layer(features))
    # It stays when the model is saved again, and another is chosen from there.
    again = folded_into(copy.deepcopy(stock[0]), 0.5)
    with pytest.warns(UserWarning, match='α = 0.5'):
        stock.load_state_dict(stock.state_dict() | again)
    torch.testing.assert_close(stock(features), with_alpha(layer, 0.5)(features))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        nn.Sequential(CausalLinear(8, 5, alpha=0.5)).load_state_dict(again)


def test_a_checkpoint_without_one_is_as_ever_and_its_option_counts() -> None:
    layer, features = layer_of(), features_of()
    state = layer.state_dict()
    assert set(state) == {'weight', 'direction'}
    other = CausalLinear(8, 5, alpha=1.0).eval()
    own = {key.removeprefix('0.'): value for key, value in folded_into(layer, 1.5).items()}
    with pytest.warns(UserWarning):
        other.load_state_dict(own)
    other.load_state_dict(state)  # what was loaded before is gone
    assert other.chosen is None
    assert torch.equal(other(features), with_alpha(layer, 1.0)(features))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_of_a_classifier_in_half_precision(dtype: torch.dtype) -> None:
    layer, features = layer_of().to(dtype), features_of().to(dtype)
    logits = layer(features)
    assert logits.dtype == torch.float32
    fitted = fit(features.float(), logits, LABELS, COUNTS, 'tde', 0.1, tde=layer)
    expected = with_alpha(layer, 0.1)(features)
    torch.testing.assert_close(fitted(features.float(), logits), expected, rtol=1e-4, atol=1e-4)
    other = CausalLinear(8, 5, alpha=0.1).eval()
    other.load_state_dict({**layer.state_dict(), **fitted.scores.folded_into(layer)})
    torch.testing.assert_close(other(features), expected)


def test_another_classifier_is_refused_before_anything_runs() -> None:
    model = nn.Sequential(calibrate_layer(layer_of(), ScoreLayout(5)))
    check_foldable(model, 'tde')
    check_foldable(model, 'disalign')
    with pytest.raises(ValueError, match='marc is written into the weights of a linear classifier'):
        check_foldable(model, 'marc')
    for other in (nn.Linear(8, 5), VMFLinear(8, 5)):
        with pytest.raises(ValueError, match=REFUSED):
            check_foldable(nn.Sequential(calibrate_layer(other, ScoreLayout(5))), 'tde')


def test_in_python_another_classifier_is_refused() -> None:
    layer, features = layer_of(), features_of()
    logits = layer(features)
    with pytest.raises(ValueError, match=REFUSED):
        fit(features, logits, LABELS, COUNTS, 'tde')
    with pytest.raises(ValueError, match='does not make these logits'):
        fit(features, copy.deepcopy(layer).train()(features), LABELS, COUNTS, 'tde', tde=layer)
    fitted = fit(features, logits, LABELS, COUNTS, 'tde', tde=layer)
    with pytest.raises(ValueError, match='tde is of no linear classifier: the CausalLinear itself'):
        fitted.folded(layer.weight)


TDE = f"""{CLASSIFIER}
model['head'].update(type='mmdisalign.classification.TDEClsHead', alpha=5.0)
custom_imports = dict(imports=['mmdisalign.classification'])
pipeline = [pipeline[0], pipeline[2]]
val_dataloader = test_dataloader = dict(test_dataloader, dataset=dict(
    type='CustomDataset', data_prefix='others', pipeline=pipeline))
val_evaluator = test_evaluator
val_cfg = dict()
"""


@pytest.fixture(scope='module')
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose classes are hard to tell, and a classifier of the means of their features."""
    root, rng = tmp_path_factory.mktemp('tde'), np.random.default_rng(0)
    for folder, counts in {'images': (40, 12, 4), 'others': (30, 30, 30)}.items():
        for label, number in enumerate(counts):
            own = root / folder / f'class_{label}'
            own.mkdir(parents=True)
            for index in range(number):
                colour = np.eye(3)[label] * 25 + rng.normal(100, 25, 3)
                image = (colour + rng.normal(0, 20, (32, 32, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(image).save(own / f'{index}.png')
    (root / 'stage1.py').write_text(TDE)
    save_untrained(root / 'stage1.py', root / 'stage1.pth')
    cfg = Config.fromfile(root / 'stage1.py')
    init_default_scope('mmpretrain')
    model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)).eval()
    model.load_state_dict(torch.load(root / 'stage1.pth')['state_dict'])
    cfg.test_dataloader.dataset.data_prefix = str(root / 'images')
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    batch = pseudo_collate([dataset[index] for index in range(len(dataset))])
    with torch.no_grad():
        data = model.data_preprocessor(batch)
        features = model.extract_feat(data['inputs'])[-1]
        label, head = torch.cat([own.gt_label for own in data['data_samples']]), model.head.fc
        head.direction.copy_(features.mean(dim=0))
        means = torch.stack([features[label == number].mean(dim=0) for number in range(3)])
        # Drawn towards the mean by how many there are, as a long-tailed training does.
        pull = torch.tensor([0.3, 0.0, -0.3])[:, None] * head.direction
        head.weight.copy_(10 * (means - head.direction + pull))
    torch.save(dict(state_dict=model.state_dict()), root / 'stage1.pth')
    return root


def top1_of(repo: Path, project: Path, config: str, checkpoint: str, *options: str) -> float:
    """Top-1 of tools/test.py."""
    tool = [sys.executable, repo / 'tools/test.py', config, checkpoint]
    output = run(repo, project, *tool, *(['--cfg-options', *options] if options else []))
    return float(re.findall(r'accuracy/top1: ([\d.]+)', output)[-1])


def test_what_is_chosen_is_what_the_test_tool_comes_to(
    repo: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    options = dict(method='tde', split_val=False, fold=True)
    result = mmdisalign.calibrate('stage1.py', 'stage1.pth', out='tde.pth', **options)
    before, after = (row.values['top1'] for row in result.rows)
    assert result.method == 'tde' and result.rows[1].folds
    # The images tell: there is another α than that of the head, and it does better.
    assert result.value != 5.0 and after > before
    top1 = top1_of(repo, project, 'tde.py', 'tde.pth')
    assert top1 == pytest.approx(after, abs=0.01)
    option = f'model.head.alpha={result.value}'
    assert top1_of(repo, project, 'stage1.py', 'stage1.pth', option) == top1
    with pytest.warns(UserWarning, match='not the option alpha = 5'):
        head = result.model.head
    assert head.fc.alpha == 5.0 and head.fc.chosen == result.value


def test_it_is_among_the_best_of_such_a_classifier_and_its_value_can_be_said(
    repo: Path, project: Path
) -> None:
    tool = [sys.executable, repo / 'tools/calibrate.py', 'stage1.py', 'stage1.pth', '--out']
    output = run(repo, project, *tool, 'best.pth', '--method', 'best', '--passes', 1, '--fold')
    assert 'are chosen by the top1 of 45 validation images, and the table is of 45 others' in output
    assert re.findall(r'^\| (\w[\w-]+) +\|', output, re.MULTILINE) == ['disalign', 'tde']
    assert 'Written to best.pth, the stock model' in output and 'tde, α = ' in output
    said = run(repo, project, *tool, 'said.pth', '--method', 'tde', '--value', '0.5')
    assert 'tde, α = 0.5. Written to said.pth' in said
    states = [
        torch.load(project / name, weights_only=False)['state_dict']
        for name in ('stage1.pth', 'said.pth')
    ]
    assert states[1].pop('head.fc.chosen') == 0.5
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_of_another_classifier_the_tool_refuses_it(repo: Path, project: Path) -> None:
    (project / 'plain.py').write_text(
        "_base_ = ['stage1.py']\n"
        "head = dict(_delete_=True, type='LinearClsHead', num_classes=3, in_channels=64)\n"
        'model = dict(head=head)\n'
    )
    save_untrained(project / 'plain.py', project / 'plain.pth')
    tool = [sys.executable, repo / 'tools/calibrate.py', 'plain.py', 'plain.pth']
    output = run(repo, project, *tool, '--method', 'tde', '--out', 'no.pth', ok=False)
    assert f'error: {REFUSED}\n' in output
    assert not (project / 'no.pth').exists()
