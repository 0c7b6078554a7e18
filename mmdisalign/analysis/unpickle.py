"""Read a pickle of predictions without running what is in it."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, Union

import numpy as np
import torch

# What predictions are made of, by module; the classes of OpenMMLab hold fields and nothing else.
ALLOWED = {
    'builtins': ('dict', 'list', 'tuple', 'set', 'frozenset', 'bytearray', 'complex', 'slice'),
    'collections': ('OrderedDict', 'defaultdict'),
    '_codecs': ('encode',),  # how an old protocol has bytes
    'numpy': ('ndarray', 'dtype'),
    'numpy.core.multiarray': ('_reconstruct', 'scalar'),
    'numpy._core.multiarray': ('_reconstruct', 'scalar'),
    'numpy.core.numeric': ('_frombuffer',),
    'numpy._core.numeric': ('_frombuffer',),
    'torch': ('Size', 'device', 'Tensor'),
    'torch._utils': ('_rebuild_tensor_v2',),
    'mmengine.structures.base_data_element': ('BaseDataElement',),
    'mmengine.structures.instance_data': ('InstanceData',),
    'mmengine.structures.label_data': ('LabelData',),
    'mmengine.structures.pixel_data': ('PixelData',),
    'mmdet.structures.det_data_sample': ('DetDataSample',),
    'mmpretrain.structures.data_sample': ('DataSample',),
    'mmseg.structures.seg_data_sample': ('SegDataSample',),
}


def load_plain(path: Union[str, Path]) -> Any:
    """Unpickle containers, numbers, arrays, tensors and OpenMMLab's plain structures.

    Args:
        path: Pickle file.

    Raises:
        ValueError: If there is anything else in it, which could run any code, or it is no pickle;
            the message names the file, and what it asks for.
    """
    with Path(path).open('rb') as file:
        unpickler = _PlainUnpickler(file)
        try:
            return unpickler.load()
        except _NotPlain as error:
            raise ValueError(
                f'{path} is refused: it asks for {error}, and predictions are containers, numbers, '
                'arrays and tensors; anything else could run code when it is read. Save it anew '
                'with test.py --out'
            ) from None
        except Exception as error:  # a broken pickle raises whatever its bytes happen to call
            raise ValueError(
                f'{path} cannot be read as a pickle: {type(error).__name__}: {error}. It may be '
                'truncated: save it anew with test.py --out'
            ) from error


class _NotPlain(pickle.UnpicklingError):
    """The message is the name of what is not allowed."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ('torch.storage', '_load_from_bytes'):
            return _storage
        if name in ALLOWED.get(module, ()) or _is_number_type(module, name):
            return super().find_class(module, name)
        raise _NotPlain(f'{module}.{name}')


def _storage(content: bytes) -> Any:
    """What torch's ``_load_from_bytes`` returns, which would run any code in the bytes."""
    return torch.load(io.BytesIO(content), map_location='cpu', weights_only=True)


def _is_number_type(module: str, name: str) -> bool:
    """Whether it is a type of numbers: ``numpy.float32``, ``numpy.dtypes.Int64DType``."""
    if module == 'numpy':
        kind = getattr(np, name, None)
        return isinstance(kind, type) and issubclass(kind, np.generic)
    if module == 'numpy.dtypes':
        return name.endswith('DType')
    return module == 'torch' and isinstance(getattr(torch, name, None), torch.dtype)
