"""Procedural scenes: an image with its ground truth from an index alone.

A scene is a list of objects of random place, size, lean and colour, painted
from the farthest to the nearest over a faintly textured ground. A class is a
*pair* of shape and texture, so neither the outline nor the surface alone
tells it: a network needs room for both, and a narrow one pays for what it
lacks. Masks, boxes and distances follow from the list. Every texture has one
true size, so what a thing is and how large it looks tell how far it is.
"""
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

SHAPES = ('disc', 'triangle')
TEXTURES = ('striped', 'banded', 'checked')  # upright, level, both
CLASSES = ('ground', ) + tuple(
    f'{texture} {shape}' for shape, texture in product(SHAPES, TEXTURES))
PALETTE = ((70, 70, 70), (230, 60, 60), (250, 170, 60), (70, 170, 80),
           (170, 220, 90), (60, 110, 220), (130, 200, 240))
SPLITS = ('train', 'val', 'test')
# in metres
RADII = dict(striped=0.42, banded=0.7, checked=0.98)  # of a disc of its area
GROUND = (10.0, 8.0)  # distance at the upper and the lower edge of the image
GAP = 0.1  # what covers something is nearer by at least this

Grid = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class SceneObject:
    """One object; lengths are in units of the image side.

    Args:
        shape (str): One of :data:`SHAPES`.
        texture (str): One of :data:`TEXTURES`.
        centre (tuple[float, float]): x and y.
        radius (float): Radius of a disc of the same area.
        angle (float): Lean in radians.
        depth (float): Distance from the viewer, 0 (near) to 1 (far).
        period (float): Length of one wave of the texture.
        colours (np.ndarray): (2, 3), the two BGR colours of the texture.
    """

    shape: str
    texture: str
    centre: tuple[float, float]
    radius: float
    angle: float
    depth: float
    period: float
    colours: np.ndarray

    @property
    def label(self) -> int:
        """Index into :data:`CLASSES`."""
        return CLASSES.index(f'{self.texture} {self.shape}')

    @property
    def distance(self) -> float:
        """Metres from the viewer that its true and its seen size tell."""
        return RADII[self.texture] / self.radius

    def mask(self, size: int) -> np.ndarray:
        """Where the object is when nothing covers it: (size, size), bool."""
        u, v = _turned(_grid(size), self.centre, self.angle)
        u, v = u / self.radius, v / self.radius
        if self.shape == 'disc':
            return u**2 + v**2 <= 1
        # equilateral of area pi: its sides are 0.778 away from the centre
        inner = np.sqrt(np.pi / (3 * np.sqrt(3)))
        return np.maximum(v, np.sqrt(0.75) * abs(u) - v / 2) <= inner

    def surface(self, size: int) -> np.ndarray:
        """Its texture, without an outline: (size, size, 3), float."""
        grid = _turned(_grid(size), self.centre, self.angle)
        return _surface(self.texture, grid, self.period, self.colours)


class Scene(NamedTuple):
    """What :func:`make_scene` returns.

    Args:
        image (np.ndarray): (size, size, 3), uint8, BGR.
        seg_map (np.ndarray): (size, size), uint8, indices of
            :data:`CLASSES`.
        objects (list[SceneObject]): From the farthest to the nearest.
    """

    image: np.ndarray
    seg_map: np.ndarray
    objects: list[SceneObject]

    @property
    def masks(self) -> np.ndarray:
        """Where each object is when nothing covers it: (K, size, size)."""
        return np.stack([obj.mask(len(self.image)) for obj in self.objects])

    @property
    def visible_masks(self) -> np.ndarray:
        """What nearer objects leave of :attr:`masks`; bool, same shape."""
        masks = self.masks
        covered = np.zeros_like(masks)
        for i in reversed(range(len(masks) - 1)):
            covered[i] = covered[i + 1] | masks[i + 1]
        return masks & ~covered

    @property
    def distances(self) -> np.ndarray:
        r"""Metres from the viewer to each object: (K, ), none below 1.

        .. math::
            d_i = \min\Big(\frac{R_i}{r_i},
            \min_{j < i,\, m_j \cap m_i \neq \emptyset} d_j - g\Big)

        R is the true radius (:data:`RADII`, metres) and r the radius in the
        image, m a mask and g the :data:`GAP`: an object is as far as its
        size tells, but in front of what it covers.
        """
        masks = self.masks
        distances = np.array([obj.distance for obj in self.objects])
        for i, mask in enumerate(masks):
            behind = distances[:i][(masks[:i] & mask).any((1, 2))]
            distances[i] = min([distances[i], *(behind - GAP)])
        return distances

    @property
    def depth_map(self) -> np.ndarray:
        """Metres to what is seen: (size, size), float32, 1 to 10.

        The ground lies behind all objects and comes nearer from the upper to
        the lower edge (:data:`GROUND`).
        """
        _, y = _grid(len(self.image))
        depth = GROUND[0] + (GROUND[1] - GROUND[0]) * y
        for mask, distance in zip(self.masks, self.distances):
            depth[mask] = distance
        return depth.astype(np.float32)


def make_scene(index: int,
               split: str = 'train',
               size: int = 64,
               seed: int = 0) -> Scene:
    """Draw the scene of an index.

    The same arguments give the same scene, whatever was drawn before and
    whatever the state of any global random generator is.

    Args:
        index (int): Number of the scene, from 0.
        split (str): One of :data:`SPLITS`; they share no scene.
        size (int): Side of the square image in pixels.
        seed (int): Number of the data set.

    Returns:
        Scene: Image, class map and objects.

    Example:
        >>> scene = make_scene(3, 'val', size=64)
        >>> scene.image.shape, scene.seg_map.shape
        ((64, 64, 3), (64, 64))
        >>> bool((scene.image == make_scene(3, 'val', 64).image).all())
        True
    """
    check_split(split)
    rng = np.random.default_rng((SPLITS.index(split), seed, index))
    objects = sorted((_random_object(rng) for _ in range(rng.integers(3, 7))),
                     key=lambda obj: -obj.depth)

    image = _random_ground(rng, size)
    seg_map = np.zeros((size, size), np.uint8)
    for obj in objects:
        inside = obj.mask(size)
        image[inside] = obj.surface(size)[inside]
        seg_map[inside] = obj.label
    return Scene(_photograph(rng, image), seg_map, objects)


def check_split(split: str) -> None:
    """Raise a ValueError unless ``split`` is one of :data:`SPLITS`."""
    if split not in SPLITS:
        raise ValueError(f'split={split!r}: allowed are {SPLITS}')


def box_around(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The smallest box (x1, y1, x2, y2) around a mask, in pixel edges.

    Args:
        mask (np.ndarray): (H, W), bool, not empty.

    Example:
        >>> box_around(np.eye(4, dtype=bool)[:, :3])
        (0, 0, 3, 3)
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1,
            int(rows[-1]) + 1)


def _random_object(rng: np.random.Generator) -> SceneObject:
    return SceneObject(
        shape=SHAPES[rng.integers(len(SHAPES))],
        texture=TEXTURES[rng.integers(len(TEXTURES))],
        centre=tuple(rng.uniform(0, 1, 2)),
        radius=rng.uniform(0.14, 0.28),
        angle=rng.uniform(-0.25, 0.25),
        depth=rng.uniform(),
        period=rng.uniform(0.11, 0.15),
        colours=_random_colours(rng, contrast=rng.uniform(80, 160)))


def _random_ground(rng: np.random.Generator, size: int) -> np.ndarray:
    x, y = rng.uniform(0, 1, 2)
    grid = _turned(_grid(size), (x, y), rng.uniform(0, 2 * np.pi))
    return _surface(TEXTURES[rng.integers(len(TEXTURES))], grid,
                    rng.uniform(0.06, 0.2),
                    _random_colours(rng, contrast=rng.uniform(0, 20)))


def _random_colours(rng: np.random.Generator, contrast: float) -> np.ndarray:
    """Two BGR colours ``contrast`` apart, in a random direction."""
    step = rng.normal(size=3)
    step *= contrast / np.linalg.norm(step)
    middle = rng.uniform(50, 205, 3)
    return np.stack([middle - step / 2, middle + step / 2])


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Uneven light, then sensor noise; back to uint8."""
    x, y = _turned(_grid(len(image)), (0.5, 0.5), rng.uniform(0, 2 * np.pi))
    light = rng.uniform(0.7, 1.1) + rng.uniform(0, 0.6) * x
    image = image * light[..., None]
    image = image + rng.normal(0, rng.uniform(2, 8), image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _grid(size: int) -> Grid:
    """Columns and rows of the pixel centres, in units of the image side."""
    ticks = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid(ticks, ticks)
    return x, y


def _turned(grid: Grid, centre: tuple[float, float], angle: float) -> Grid:
    x, y = grid[0] - centre[0], grid[1] - centre[1]
    cos, sin = np.cos(angle), np.sin(angle)
    return cos * x + sin * y, cos * y - sin * x


def _surface(texture: str, grid: Grid, period: float,
             colours: np.ndarray) -> np.ndarray:
    """Two colours in waves: (size, size, 3)."""
    stripes, bands = (np.sin(2 * np.pi / period * axis) for axis in grid)
    waves = dict(striped=stripes, banded=bands, checked=stripes * bands)
    return np.where(waves[texture][..., None] > 0, colours[1], colours[0])
