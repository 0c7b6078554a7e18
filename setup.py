"""Package mmdisalign, with configs and tools under ``mmdisalign/.mim`` as OpenMMLab does it."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
DEPENDENCIES = runpy.run_path(str(ROOT / 'mmdisalign' / 'dependencies.py'), run_name='dependencies')
VERSION = runpy.run_path(str(ROOT / 'mmdisalign' / 'version.py'))
README = ROOT / 'README.md'


class BuildWithMim(build_py):
    """Build the package, and put ``configs/`` and ``tools/`` where mim and ``config_path`` look.

    An editable install gets links in the checkout, so it sees the live files. A wheel gets copies,
    made in the build directory: the checkout is left as it was.
    """

    def run(self) -> None:
        super().run()
        mim = (ROOT if self.editable_mode else Path(self.build_lib)) / 'mmdisalign' / '.mim'
        # An earlier build may have left files there that the checkout no longer has.
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        for folder in ('configs', 'tools'):
            if self.editable_mode:
                (mim / folder).symlink_to(Path('..', '..', folder), target_is_directory=True)
            else:
                ignore = shutil.ignore_patterns('__pycache__', '*.pyc')
                shutil.copytree(ROOT / folder, mim / folder, ignore=ignore)


setup(
    name='mmdisalign',
    version=VERSION['__version__'],
    description='DisAlign: distribution alignment for long-tailed recognition, on OpenMMLab 2.x',
    long_description=README.read_text(encoding='utf-8') if README.is_file() else '',
    long_description_content_type='text/markdown',
    author='The mmdisalign authors',
    license='Apache-2.0',
    python_requires='>=3.9',
    packages=find_packages(include=['mmdisalign', 'mmdisalign.*']),
    include_package_data=True,
    install_requires=DEPENDENCIES['requirements'](DEPENDENCIES['BASE']),
    extras_require={
        extra: DEPENDENCIES['requirements'](names)
        for extra, names in DEPENDENCIES['EXTRAS'].items()
    },
    entry_points={'console_scripts': ['mmdisalign = mmdisalign.__main__:main']},
    cmdclass={'build_py': BuildWithMim},
    zip_safe=False,
)
