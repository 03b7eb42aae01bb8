"""Toy scenes as files that lie nowhere: ``toy://val/0/96/00003.png``."""
from collections.abc import Callable
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

import cv2
import numpy as np
from mmengine.fileio import BaseStorageBackend, register_backend

from .toy_scenes import Scene, make_scene

PREFIX = 'toy://'
MILLIMETRE = 1e-3  # unit of the depth files, in metres


class ToyPaths(NamedTuple):
    """The files of one scene.

    Args:
        image (str): BGR.
        labels (str): Class map, 8 bits.
        depth (str): Depth map in millimetres, 16 bits.
    """

    image: str
    labels: str
    depth: str


def toy_paths(index: int, split: str, size: int, seed: int) -> ToyPaths:
    """The paths of a scene's files; see :func:`make_scene`.

    Example:
        >>> toy_paths(3, 'val', size=96, seed=0)
        ToyPaths(image='toy://val/0/96/00003.png',
        labels='toy://val/0/96/00003_labels.png',
        depth='toy://val/0/96/00003_depth.png')
    """
    stem = f'{PREFIX}{split}/{seed}/{size}/{index:05d}'
    return ToyPaths(f'{stem}.png', f'{stem}_labels.png', f'{stem}_depth.png')


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
            stem, _, kind = name.partition('.')[0].partition('_')
            return _draw(kind, int(stem), split, int(size), int(seed))
        except (ValueError, KeyError) as error:
            raise FileNotFoundError(f'no toy scene {filepath!r}') from error

    def get_text(self, filepath: str) -> str:
        """There is no text among the toy files."""
        raise FileNotFoundError(f'{filepath!r} is not a text file')


@lru_cache(maxsize=12288)
def _draw(kind: str, *scene: Any) -> bytes:
    return cv2.imencode('.png', KINDS[kind](_scene(*scene)))[1].tobytes()


_scene = lru_cache(maxsize=16)(make_scene)  # its files are read in a row


def _millimetres(scene: Scene) -> np.ndarray:
    return np.rint(scene.depth_map / MILLIMETRE).astype(np.uint16)


KINDS: dict[str, Callable[[Scene], np.ndarray]] = {
    '': attrgetter('image'),
    'labels': attrgetter('seg_map'),
    'depth': _millimetres
}
