"""What the toy datasets of the three tasks have in common."""
from collections.abc import Iterator
from typing import Any

from .toy_backend import ToyPaths, toy_paths
from .toy_scenes import check_split


class ToyDataset:
    """A number of scenes, in front of a dataset class of a host.

    The files are drawn when they are read, so the stock transforms and
    visualisation hooks work on it and nothing lies on the disk.

    Args:
        length (int): Number of scenes.
        split (str): ``'train'``, ``'val'`` or ``'test'``.
        size (int): Side of the square images in pixels.
        seed (int): Number of the data set; another one gives other scenes.
        **kwargs: As the host's class takes them.

    Raises:
        ValueError: If the split is unknown.
    """

    def __init__(self,
                 length: int,
                 split: str = 'train',
                 size: int = 64,
                 seed: int = 0,
                 **kwargs: Any) -> None:
        check_split(split)
        self.length = length
        self.scenes: dict[str, Any] = dict(split=split, size=size, seed=seed)
        super().__init__(**kwargs)

    def paths(self) -> Iterator[ToyPaths]:
        """The files of every scene."""
        return (toy_paths(i, **self.scenes) for i in range(self.length))
