"""What the docs tell people to type exists: scripts, their options, files and links."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
DOCS = [REPO / 'README.md', *(REPO / 'docs').rglob('*.md'), REPO / 'benchmarks/README.md']


def commands() -> list[str]:
    blocks = [b for d in DOCS for b in re.findall(r'```bash\n(.*?)```', d.read_text(), re.DOTALL)]
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize('command', commands())
def test_every_command_names_a_script_and_options_that_it_has(command: str) -> None:
    words = [word for word in shlex.split(command, comments=True) if '=' not in word]
    program, script, *arguments = words
    assert program in ('python', 'bash')
    source = (REPO / script).read_text()
    # Launchers pass their options on to a tool, whose common ones are in launch.py.
    for inner in re.findall(r'(train|test|calibrate)\.py"', source):
        source += (REPO / f'tools/{inner}.py').read_text()
    source += (REPO / 'mmdisalign/engine/launch.py').read_text()
    for option in (argument for argument in arguments if argument.startswith('--')):
        assert f"'{option}'" in source
    for path in (argument for argument in arguments if argument.startswith('configs/')):
        assert (REPO / path).is_file()


@pytest.mark.parametrize('path', DOCS, ids=lambda path: path.relative_to(REPO).as_posix())
def test_every_link_into_the_repository_has_a_target(path: Path) -> None:
    text = path.read_text()
    assert '{{' not in text
    assert not re.search(r'^[A-Z0-9]{5,}$', text, re.MULTILINE)  # to be filled in
    for link in re.findall(r'\]\((?!http)([^)#]+)[^)]*\)', text):
        assert (path.parent / link).exists(), link


def test_every_make_target_of_the_readme_exists() -> None:
    targets = re.findall(r'make (\w+)', (REPO / 'README.md').read_text())
    makefile = (REPO / 'Makefile').read_text()
    for target in set(targets) - {'and'}:
        assert re.search(rf'^{target}:', makefile, re.MULTILINE)
