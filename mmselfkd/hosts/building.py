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
               scope: str, **defaults: Any) -> nn.Module:
    """A neck for the levels; a BiFPN where ``cfg`` names no other.

    Args:
        levels (list[Tensor]): Give ``in_channels``.
        cfg (dict, optional): Of the neck.
        key (str): Where that stands in the config, for the errors.
        scope (str): Of the host, which has necks of its own.
        defaults: Of a BiFPN, where ``cfg`` does not say.
    """
    if cfg is None and len(levels) == 1:
        raise ConfigError(
            f'{key}: a BiFPN fuses two or more levels, and the student gives '
            "one; name a neck for one, such as teacher=dict(type="
            "'SelfTeacher', neck=dict(type='FPN', "
            f'out_channels={levels[0].shape[1]}, num_outs=1))')
    cfg = dict(type='BiFPN') if cfg is None else dict(cfg)
    cfg.setdefault('in_channels', [level.shape[1] for level in levels])
    if cfg.get('type') == 'BiFPN':
        cfg |= {k: v for k, v in defaults.items() if k not in cfg}
        scope = 'mmselfkd'
    return build_registered(cfg, scope, key).to(levels[0].device)
