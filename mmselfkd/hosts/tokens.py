"""Where the tokens of a transformer lie in the image."""
from typing import Any

from torch import nn

from .places import Size, attribute

HALVINGS = 6  # of the patch grid, by merging layers
STEM = 4  # the stride of the finest tokens of a pyramid
BACKBONES = 'backbone', 'image_encoder'


def token_grid(model: nn.Module, path: str, tokens: int,
               size: Size) -> tuple[int, int, int] | None:
    """The grid of so many tokens of the module ``path``.

    The patch size is that of the nearest module around ``path``, or of the
    backbone. The grid may be halved by merging layers. Class and register
    tokens come first and have no place. In a backbone whose patches are not
    known, such as an MSCAN, tokens that fill a grid of stride 4, 8 and so on
    are that grid.

    Args:
        model (nn.Module): The unwrapped model.
        path (str): Name of the module that gives the tokens.
        tokens (int): How many.
        size (tuple[int, int]): Height and width of the model's input.

    Returns:
        tuple | None: Height, width, and the number of first tokens without a
        place; None where this is not known.
    """
    names = path.split('.')
    around = [attribute(model, '.'.join(names[:depth]))
              for depth in range(len(names), 0, -1)]
    for module in (*around, model, getattr(model, 'backbone', None)):
        patch = _patch_size(module)
        if patch is not None:
            return _grid(patch, _first_tokens(module), tokens, size)
    if names[0] in BACKBONES:
        return _grid((STEM, STEM), [0], tokens, size)
    return None


def is_channels_last(shape: Size, size: Size) -> bool:
    """Whether a map (N, H, W, C), and not (N, C, H, W), is of the image.

    Args:
        shape (Size): Of the map.
        size (tuple[int, int]): Height and width of the model's input.

    Example:
        >>> is_channels_last((2, 8, 12, 96), (64, 96))
        True
        >>> is_channels_last((2, 96, 8, 12), (64, 96))
        False
    """
    _, first, second, third = shape
    return (third > 1 and _covers(first, second, size)
            and not _covers(second, third, size))


def _covers(rows: int, columns: int, size: Size) -> bool:
    """Whether a map has the shape of the image, but for a cell."""
    height, width = size
    return abs(columns * height - rows * width) <= height + width


def _grid(patch: Size, firsts: list[int], tokens: int,
          size: Size) -> tuple[int, int, int] | None:
    """Of the numbers of tokens in front the first that leaves a grid."""
    for count in dict.fromkeys(firsts):
        for halvings in range(HALVINGS):
            sides = [p * 2**halvings for p in patch]
            for height, width in (
                    [-(-total // side) for total, side in zip(size, sides)],
                    [total // side for total, side in zip(size, sides)]):
                if height * width and tokens == count + height * width:
                    return height, width, count
    return None


def _patch_size(module: Any) -> Size | None:
    embed = getattr(module, 'patch_embed', None)
    several = getattr(module, 'patch_embeds', None)  # Twins: one a stage
    if isinstance(several, nn.ModuleList):
        embed = several[0]
    for owner, name in ((embed, 'projection'), (embed, 'proj'),
                        (module, 'conv_proj')):
        conv = getattr(owner, name, None)
        if isinstance(conv, nn.Conv2d):
            return tuple(conv.stride)
    if hasattr(module, 'patch_sizes') and hasattr(module, 'strides'):
        return module.strides[0], module.strides[0]  # MiT: one a stage
    size = getattr(module, 'patch_size', None)
    if isinstance(size, int):
        return size, size
    if isinstance(size, (tuple, list)) and len(size) == 2:
        return tuple(size)
    return None


def _first_tokens(module: Any) -> list[int]:
    """How many class and register tokens may stand in front of the patches.

    A backbone may drop them on the way.
    """
    tokens = [getattr(module, name, None) for name in
              ('cls_token', 'class_token', 'dist_token', 'reg_token',
               'register_tokens', 'registers', 'storage_tokens')]
    counts = [getattr(module, name, None)
              for name in ('num_prefix_tokens', 'num_extra_tokens')]
    return [*(count for count in counts if isinstance(count, int)),
            sum(t.shape[1] for t in tokens if t is not None), 0]
