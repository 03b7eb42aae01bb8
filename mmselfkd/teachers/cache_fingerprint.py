"""What an answer of a teacher depends on, and a name for all of it."""
import hashlib
import inspect
import json
import os.path as osp
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ..checkpoint_files import local_file
from ..errors import ConfigError
from .frozen import classes_of_data, load_config

WEIGHTS = ('.pth', '.pt', '.ckpt', '.bin', '.safetensors')


def fingerprint(parts: Mapping[str, Any]) -> str:
    """A name for these parts, and for no others."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain(value: Any, key: str) -> Any:
    """A config as JSON can hold it, the same in each run.

    Raises:
        ConfigError: An object in it that does not say what it is.
    """
    if isinstance(value, Mapping):
        return {str(name): plain(item, key) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, key) for item in value]
    if isinstance(value, (set, frozenset)):  # ordered anew in each process
        return sorted((plain(item, key) for item in value), key=str)
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return value.tolist()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if inspect.isclass(value) or inspect.isfunction(value):
        return f'{value.__module__}.{value.__qualname__}'
    if ' at 0x' in repr(value):
        raise ConfigError(
            f'{key}: holds a {type(value).__name__}, which cannot be told '
            'from another one in the next run; give its config')
    return repr(value)


def teacher_config(cfg: Any, key: str) -> Any:
    """A teacher's arguments: the models of its configs, no names of files.

    Under a class map the names of the classes in the data of a config count,
    which say what each score is of.

    Raises:
        ConfigError: A config cannot be read.
    """
    if isinstance(cfg, Mapping):
        return {
            name: _model_of(value, key, cfg.get('classes') is not None)
            if name == 'config' else teacher_config(value, key)
            for name, value in cfg.items() if name != 'trust_checkpoint'}
    if isinstance(cfg, (list, tuple)):
        return [teacher_config(value, key) for value in cfg]
    return '' if isinstance(cfg, str) and _is_file(cfg) else plain(cfg, key)


def weight_files(cfg: Any) -> Iterator[str]:
    """The files with weights that a teacher's arguments name."""
    if isinstance(cfg, Mapping):
        for name, value in cfg.items():
            if name != 'config':
                yield from weight_files(value)
    elif isinstance(cfg, (list, tuple)):
        for value in cfg:
            yield from weight_files(value)
    elif isinstance(cfg, str) and _is_file(cfg):
        yield cfg


def file_hash(path: str) -> str | None:
    """SHA-256 of a file or URL; None where it is not there."""
    word = hashlib.sha256()
    try:
        with local_file(path) as found, open(found, 'rb') as file:
            while block := file.read(2**20):
                word.update(block)
    except (ValueError, OSError):
        return None
    return word.hexdigest()


def state_hash(model: nn.Module) -> str:
    """SHA-256 of a model's weights and buffers, by name."""
    word = hashlib.sha256()
    for name, value in model.state_dict().items():
        word.update(f'{name} {tuple(value.shape)} {value.dtype}'.encode())
        word.update(value.detach().cpu().contiguous().view(-1).view(
            torch.uint8).numpy().data)
    return word.hexdigest()


def _model_of(config: Any, key: str, has_map: bool) -> Any:
    """What of a model's config the model is built from, or mapped by."""
    loaded = load_config(config, key)
    parts = {name: loaded.get(name) for name in (
        'model', 'default_scope', 'custom_imports')}
    if has_map:
        parts['classes'] = classes_of_data(loaded)
    return plain(parts, key)


def _is_file(value: str) -> bool:
    return value.endswith(WEIGHTS) or osp.isfile(value)
