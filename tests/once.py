"""What mmengine does anew each time it reads or prints a config, done once: the tests do it often.

The indexes are read here, so that a fork has them.
"""

from __future__ import annotations

import ast
import os
from functools import cache

from mmengine.config import Config, config, utils

format_code = config.FormatCode


def _leave_as_it_is(text: str, **style: object) -> tuple[str, bool]:
    """In the place of yapf, which takes as long as all else that a short training begins with."""
    if os.environ.get('FORMATTED'):  # as users have it
        return format_code(text, **style)
    ast.parse(text)  # or a SyntaxError, as yapf has it
    return text, False


# The text of a config, which goes into its log and into each checkpoint. The demo has it formatted,
# and so has the test that writes out each config.
config.FormatCode = _leave_as_it_is
# Which packages there are, and the list of all models of a library, for each file that has a base
# in the library.
config.is_installed = cache(config.is_installed)
utils.load = cache(utils.load)
for _library in ('mmseg', 'mmdet', 'mmpretrain'):
    Config._get_cfg_path(f'{_library}::_base_/default_runtime.py', '')
