"""Parts of a self-teacher, built from their configs."""
from typing import Any

import torch
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import nn

from ..errors import ConfigError


def build_registered(cfg: dict, scope: str, key: str) -> nn.Module:
    """Build and initialise ``cfg`` of the registry ``scope``.

    Raises:
        ConfigError: It cannot be built.
    """
    try:
        module = MMENGINE_MODELS.build({**cfg, '_scope_': scope})
    except Exception as error:  # any module may refuse its arguments anyhow
        raise ConfigError(f'{key} = {cfg!r}: {error}') from error
    if hasattr(module, 'init_weights'):
        module.init_weights()
    return module


def build_neck(levels: list[torch.Tensor], cfg: dict | None, key: str,
               **defaults: Any) -> nn.Module:
    """A neck for the levels; a BiFPN where ``cfg`` names no other.

    Args:
        levels (list[Tensor]): Give ``in_channels``.
        cfg (dict, optional): Of the neck.
        key (str): Where that stands in the config, for the errors.
        defaults: Of a BiFPN, where ``cfg`` does not say.
    """
    cfg = dict(type='BiFPN') if cfg is None else dict(cfg)
    cfg.setdefault('in_channels', [level.shape[1] for level in levels])
    if cfg.get('type') == 'BiFPN':
        cfg |= {k: v for k, v in defaults.items() if k not in cfg}
    return build_registered(cfg, 'mmselfkd', key).to(levels[0].device)
