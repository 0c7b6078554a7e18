"""The package as people install it: its import, its wheel, and what it says of wrong versions."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import mmdisalign
from mmdisalign import dependencies
from mmdisalign.__main__ import COMMANDS

REPO = Path(__file__).resolve().parents[1]


def run(*args: str, cwd: Path, path: Path) -> str:
    """Run Python with ``path`` alone on PYTHONPATH; return what it prints."""
    done = subprocess.run(
        [sys.executable, *args],
        cwd=cwd,
        env={**os.environ, 'PYTHONPATH': str(path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
    """A copy of the checkout, to build in."""
    copy = tmp_path_factory.mktemp('build') / 'checkout'
    copy.mkdir()
    ignore = shutil.ignore_patterns('__pycache__', '.mim')
    for name in ('mmdisalign', 'configs', 'tools'):
        shutil.copytree(REPO / name, copy / name, ignore=ignore)
    for name in ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'requirements.txt', 'LICENSE'):
        shutil.copy(REPO / name, copy)
    return copy


@pytest.fixture(scope='module')
def wheel(checkout, tmp_path_factory):
    out = tmp_path_factory.mktemp('wheel')
    flags = ('--no-deps', '--no-build-isolation', '--no-index', '--quiet')
    run('-m', 'pip', 'wheel', '.', *flags, '-w', str(out), cwd=checkout, path=checkout)
    (built,) = out.glob('mmdisalign-*.whl')
    return built


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    """The folder where the wheel is installed."""
    target = tmp_path_factory.mktemp('installed')
    flags = ('--no-deps', '--no-index', '--quiet')
    run('-m', 'pip', 'install', *flags, '-t', str(target), str(wheel), cwd=target, path=target)
    return target


@pytest.fixture
def versions(monkeypatch):
    """What ``require`` sees as installed, by name: at first the set in requirements.txt."""
    lines = (REPO / 'requirements.txt').read_text(encoding='utf-8').splitlines()
    pretended = dict(line.split('==') for line in lines if '==' in line)

    def version(name):
        if name not in pretended:
            raise PackageNotFoundError(name)
        return pretended[name]

    monkeypatch.setattr(dependencies, 'version', version)
    return pretended


def files_below(folder: str) -> set[str]:
    paths = (REPO / folder).rglob('*')
    return {
        path.relative_to(REPO).as_posix()
        for path in paths
        if path.is_file() and '__pycache__' not in path.parts
    }


def test_import_is_light(tmp_path):
    code = """
        import sys, mmdisalign
        heavy = {'torch', 'numpy', 'mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain'}
        print(sorted(heavy & set(sys.modules)))
    """
    code = '\n'.join(line.strip() for line in code.splitlines())
    assert run('-c', code, cwd=tmp_path, path=REPO) == '[]'


@pytest.mark.parametrize('extra', ['seg', 'det', 'cls', 'all'])
def test_tested_versions_are_accepted(extra, versions):
    assert set(dependencies.EXTRAS[extra]) <= set(versions)
    dependencies.require(extra)


@pytest.mark.parametrize('wrong', ['2.0.0rc3', '2.2.0', '2.2.0rc1'])
def test_wrong_version_is_named_with_the_range_that_works(versions, wrong):
    versions['mmcv'] = wrong
    with pytest.raises(ImportError) as error:
        dependencies.require('seg')
    message = str(error.value)
    assert f'mmcv {wrong} is installed; >=2.0.0rc4,<2.2 works' in message
    assert 'pip install --no-build-isolation "mmcv>=2.0.0rc4,<2.2"' in message
    assert 'mmengine' not in message


@pytest.mark.parametrize('right', ['2.0.0rc4', '2.1.0', '2.1.0+cu121'])
def test_versions_at_the_edges_are_accepted(versions, right):
    versions['mmcv'] = right
    dependencies.require('seg')


def test_missing_package_names_the_extra(versions):
    del versions['mmdet'], versions['mmpretrain']
    dependencies.require('seg')
    with pytest.raises(ImportError, match=r'mmdisalign\[det\]') as error:
        dependencies.require('det')
    assert 'mmdet is not installed; >=3.3,<4 works' in str(error.value)
    assert 'pip install "mmdet>=3.3,<4"' in str(error.value)
    assert 'mmpretrain' not in str(error.value)


def test_unknown_extra_lists_those_there_are():
    with pytest.raises(ValueError, match=r"'segmentation'.*'seg'"):
        dependencies.require('segmentation')


def test_config_path_finds_the_live_configs():
    config = sorted((REPO / 'configs').rglob('*.py'))[0]
    found = mmdisalign.config_path(config.relative_to(REPO / 'configs').as_posix())
    assert Path(found) == config


def test_config_path_lists_close_matches():
    config = sorted((REPO / 'configs').rglob('*.py'))[0]
    name = config.relative_to(REPO / 'configs').as_posix()
    for mistake in (name.replace('.py', 's.py'), f'nowhere/{config.name}', name[:-3]):
        with pytest.raises(FileNotFoundError) as error:
            mmdisalign.config_path(mistake)
        assert repr(mistake) in str(error.value) and name in str(error.value)


def test_config_path_says_when_nothing_is_close():
    with pytest.raises(FileNotFoundError, match='none of its'):
        mmdisalign.config_path('????')


def test_wheel_carries_configs_tools_and_data(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith('METADATA'))).decode()
    expected = {f'mmdisalign/.mim/{path}' for path in files_below('configs') | files_below('tools')}
    expected |= files_below('mmdisalign/data') | {'mmdisalign/analysis/report.html'}
    assert expected <= names
    assert not [name for name in names if name.endswith('.pyc') or name.startswith('tests/')]

    lines = [line.partition(': ') for line in metadata.splitlines()]
    extras = {value for key, _, value in lines if key == 'Provides-Extra'}
    assert extras == {'seg', 'det', 'cls', 'all', 'report', 'tests'}
    needed = [Requirement(value) for key, _, value in lines if key == 'Requires-Dist']
    assert {need.name for need in needed if not need.marker} == {'numpy', 'packaging', 'torch'}


def test_building_leaves_the_checkout_clean(checkout, wheel):
    subprocess.run(['git', 'init', '-q'], cwd=checkout, check=True)
    shutil.copy(REPO / '.gitignore', checkout)
    listed = ['git', 'ls-files', '--others', '--exclude-standard']
    files = subprocess.run(listed, cwd=checkout, check=True, capture_output=True, text=True).stdout
    tops = {Path(line).parts[0] for line in files.splitlines()}
    assert tops <= {path.name for path in REPO.iterdir()} - {'build', 'mmdisalign.egg-info'}
    assert not (checkout / 'mmdisalign' / '.mim').exists()


def test_installed_wheel_finds_its_own_configs(installed, tmp_path):
    name = sorted((REPO / 'configs').rglob('*.py'))[0].relative_to(REPO / 'configs').as_posix()
    code = f'import mmdisalign; print(mmdisalign.config_path({name!r}))'
    found = Path(run('-c', code, cwd=tmp_path, path=installed))
    assert found == installed / 'mmdisalign' / '.mim' / 'configs' / name
    assert found.is_file()


def test_editable_install_sees_live_configs(checkout, tmp_path):
    flags = ('--no-deps', '--no-build-isolation', '--no-index', '--quiet')
    prefix = ('--prefix', str(tmp_path / 'prefix'))
    run('-m', 'pip', 'install', *flags, *prefix, '-e', '.', cwd=checkout, path=tmp_path)
    live = checkout / 'configs' / '_base_' / 'written_after_the_install.py'
    live.parent.mkdir(exist_ok=True)
    live.touch()
    mim = checkout / 'mmdisalign' / '.mim'
    assert (mim / 'configs' / '_base_' / live.name).samefile(live)
    assert (mim / 'tools').samefile(checkout / 'tools')

    (site,) = (tmp_path / 'prefix').rglob('site-packages')
    code = f'import site; site.addsitedir({str(site)!r}); import mmdisalign as m'
    code += f'; print(m.config_path("_base_/{live.name}"))'
    # Isolated from a `.pth` of the environment that runs the tests, which names the real checkout.
    assert Path(run('-S', '-c', code, cwd=tmp_path, path=tmp_path)) == live
    live.unlink()


def test_the_installed_command_runs_every_tool(installed, tmp_path):
    command = installed / 'bin' / 'mmdisalign'
    assert command.is_file()
    usage = run('-m', 'mmdisalign', cwd=tmp_path, path=installed)
    tools = sorted(path.stem for path in (REPO / 'tools').glob('*.py'))
    assert tools == sorted(script for script, _ in COMMANDS.values())
    assert all(name in usage for name in COMMANDS)
    for name in COMMANDS:
        told = run('-m', 'mmdisalign', name, '--help', cwd=tmp_path, path=installed)
        assert told.startswith(f'usage: mmdisalign {name} ')
    unknown = [sys.executable, '-m', 'mmdisalign', 'magic']
    env = {**os.environ, 'PYTHONPATH': str(installed)}
    done = subprocess.run(unknown, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and 'error: no command magic' in done.stderr
