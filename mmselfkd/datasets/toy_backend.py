"""Toy scenes as files that lie nowhere: ``toy://val/0/96/00003.png``."""
from functools import lru_cache
from typing import Tuple

import cv2
from mmengine.fileio import BaseStorageBackend, register_backend

from .toy_scenes import make_scene

PREFIX = 'toy://'


def toy_paths(index: int, split: str, size: int,
              seed: int) -> Tuple[str, str]:
    """The paths of a scene's image and class map; see :func:`make_scene`.

    Example:
        >>> toy_paths(3, 'val', size=96, seed=0)
        ('toy://val/0/96/00003.png', 'toy://val/0/96/00003_labels.png')
    """
    stem = f'{PREFIX}{split}/{seed}/{size}/{index:05d}'
    return f'{stem}.png', f'{stem}_labels.png'


@register_backend('toy', prefixes='toy', force=True)
class ToyBackend(BaseStorageBackend):
    """Draws the file that a path of :func:`toy_paths` names.

    So everything that reads images by mmengine (the hosts' loading
    transforms, their visualisation hooks) reads toy scenes too.
    """

    def get(self, filepath: str) -> bytes:
        """Bytes of a PNG."""
        try:
            split, seed, size, name = filepath[len(PREFIX):].split('/')
            stem, _, suffix = name.partition('_')
            scene = int(stem.partition('.')[0]), split, int(size), int(seed)
            files = _draw(*scene)
        except ValueError as error:
            raise FileNotFoundError(f'no toy scene {filepath!r}') from error
        return files[bool(suffix)]

    def get_text(self, filepath: str) -> str:
        """There is no text among the toy files."""
        raise FileNotFoundError(f'{filepath!r} is not a text file')


@lru_cache(maxsize=4096)
def _draw(index: int, split: str, size: int, seed: int) -> Tuple[bytes, bytes]:
    scene = make_scene(index, split, size, seed)
    return tuple(
        cv2.imencode('.png', array)[1].tobytes()
        for array in (scene.image, scene.seg_map))
