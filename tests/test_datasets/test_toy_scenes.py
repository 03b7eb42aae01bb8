import hashlib
import math

import numpy as np
import pytest

from mmselfkd.datasets.toy_scenes import (
    CLASSES,
    PALETTE,
    SHAPES,
    SPLITS,
    TEXTURES,
    Scene,
    SceneObject,
    box_around,
    make_scene,
)

TRUE_RADIUS = dict(striped=0.42, banded=0.7, checked=0.98)


def make_object(shape, **changes):
    values = dict(
        shape=shape,
        texture='striped',
        centre=(0.5, 0.5),
        radius=0.2,
        angle=0.3,
        depth=0.5,
        period=0.1,
        colours=np.array([[0., 0., 0.], [255., 255., 255.]]))
    return SceneObject(**{**values, **changes})


def same(a, b):
    return np.array_equal(a.image, b.image) and np.array_equal(
        a.seg_map, b.seg_map)


def test_types_and_ranges():
    scene = make_scene(0, size=48)
    assert scene.image.shape == (48, 48, 3)
    assert scene.image.dtype == scene.seg_map.dtype == np.uint8
    assert scene.seg_map.shape == (48, 48)
    assert scene.seg_map.max() < len(CLASSES) == len(PALETTE)


def test_depends_on_its_arguments_alone():
    np.random.seed(1)
    first = make_scene(3)
    make_scene(4)
    np.random.seed(2)
    state = np.random.get_state()[1].copy()
    assert same(make_scene(3), first)
    assert np.array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize('other', [
    dict(index=4), dict(split='val'), dict(split='test'), dict(seed=1)])
def test_every_argument_matters(other):
    assert not same(make_scene(**{**dict(index=3), **other}), make_scene(3))


def test_size_changes_resolution_only():
    small, large = make_scene(5, size=48), make_scene(5, size=96)
    agree = small.seg_map == large.seg_map[::2, ::2]
    assert agree.mean() > 0.95


def test_nearest_object_covers_the_others():
    scene = make_scene(7, size=64)
    depths = [obj.depth for obj in scene.objects]
    assert depths == sorted(depths, reverse=True)
    expected = np.zeros((64, 64), np.uint8)
    for obj in scene.objects:
        expected[obj.mask(64)] = obj.label
    assert np.array_equal(scene.seg_map, expected)
    assert (scene.seg_map[scene.objects[-1].mask(64)] ==
            scene.objects[-1].label).all()


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('angle', [0., 0.7])
def test_shapes_of_one_radius_have_one_area(shape, angle):
    area = make_object(shape, angle=angle).mask(400).mean()
    assert area == pytest.approx(np.pi * 0.2**2, rel=0.01)


def test_label_is_the_pair_of_shape_and_texture():
    labels = {
        make_object(shape, texture=texture).label
        for shape in SHAPES for texture in TEXTURES
    }
    assert labels == set(range(1, len(CLASSES)))


def test_textures_differ_in_pattern_not_in_mean():
    surfaces = {
        texture: make_object('disc', angle=0., texture=texture).surface(80)
        for texture in TEXTURES
    }
    assert (surfaces['striped'] == surfaces['striped'][:1]).all()
    assert (surfaces['banded'] == surfaces['banded'][:, :1]).all()
    for surface in surfaces.values():
        assert surface.mean() == pytest.approx(255 / 2, rel=0.1)


def test_every_class_is_frequent():
    scenes = [make_scene(index, size=32).seg_map for index in range(60)]
    shares = np.bincount(
        np.ravel(scenes), minlength=len(CLASSES)) / np.size(scenes)
    assert 0.4 < shares[0] < 0.8
    assert (shares[1:] > 0.02).all()


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="'valid'.*'val'"):
        make_scene(0, 'valid')
    assert SPLITS == ('train', 'val', 'test')


def inside(obj, x, y):
    """Whether a point lies in an object, by plain geometry."""
    x, y = x - obj.centre[0], y - obj.centre[1]
    if obj.shape == 'disc':
        return math.hypot(x, y) <= obj.radius
    # corners of an equilateral triangle of the area of the disc, tip up
    reach = obj.radius * math.sqrt(4 * math.pi / (3 * math.sqrt(3)))
    corners = [(reach * math.cos(turn), reach * math.sin(turn))
               for turn in (obj.angle + math.radians(a)
                            for a in (-90, 30, 150))]
    sides = [
        (bx - ax) * (y - ay) - (by - ay) * (x - ax)
        for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1])]
    return all(side >= 0 for side in sides)


def drawn(scene, size):
    """Index of the object seen at each pixel, -1 for the ground."""
    seen = np.full((size, size), -1)
    for row in range(size):
        for column in range(size):
            at = ((column + 0.5) / size, (row + 0.5) / size)
            hits = [(obj.depth, i) for i, obj in enumerate(scene.objects)
                    if inside(obj, *at)]
            if hits:
                seen[row, column] = min(hits)[1]
    return seen


@pytest.mark.parametrize('index', range(4))
def test_visible_masks_and_boxes_against_a_drawing(index):
    scene = make_scene(index, 'val', size=40)
    seen = drawn(scene, 40)
    masks = scene.visible_masks
    assert masks.shape == (len(scene.objects), 40, 40)
    assert masks.dtype == bool
    for i, mask in enumerate(masks):
        assert np.array_equal(mask, seen == i)
        if mask.any():
            rows, columns = np.nonzero(seen == i)
            assert box_around(mask) == (columns.min(), rows.min(),
                                        columns.max() + 1, rows.max() + 1)


@pytest.mark.parametrize('index', range(4))
def test_depth_map_against_a_drawing(index):
    size = 40
    scene = make_scene(index, 'val', size=size)
    distances = []
    for obj in scene.objects:
        away = TRUE_RADIUS[obj.texture] / obj.radius
        for other, behind in zip(scene.objects, distances):
            if (obj.mask(size) & other.mask(size)).any():
                away = min(away, behind - 0.1)
        distances.append(away)
    seen = drawn(scene, size)
    expected = np.array([
        [10 - 2 * (row + 0.5) / size if i < 0 else distances[i] for i in line]
        for row, line in enumerate(seen)])
    assert scene.depth_map.dtype == np.float32
    assert scene.depth_map == pytest.approx(expected, abs=1e-5)


def test_what_covers_is_nearer():
    def scene(*objects):
        blank = np.zeros((30, 30), np.uint8)
        return Scene(np.stack([blank] * 3, 2), blank, list(objects))

    large = make_object('disc', texture='banded', radius=0.28)  # 2.5 m
    small = make_object('disc', texture='banded', radius=0.14)  # 5 m
    aside = make_object('disc', texture='banded', radius=0.14,
                        centre=(0.05, 0.05))
    assert scene(small, large).distances == pytest.approx([5, 2.5])
    assert scene(large, small).distances == pytest.approx([2.5, 2.4])
    assert scene(large, aside).distances == pytest.approx([2.5, 5])
    assert scene(large, small, small).distances == pytest.approx(
        [2.5, 2.4, 2.3])
    covered, _ = scene(small, large).visible_masks
    assert not covered.any()


def test_depth_stays_in_its_range():
    maps = np.stack([make_scene(i, size=24).depth_map for i in range(300)])
    assert 1 <= maps.min() < 1.5
    assert 9.5 < maps.max() <= 10
    objects = np.stack([make_scene(i, size=24).seg_map for i in range(300)])
    assert maps[objects > 0].max() <= 7.01
    assert maps[objects == 0].min() > 8


def test_what_was_drawn_before_masks_and_depth_is_unchanged():
    """Checkpoints and numbers of the segmentation runs depend on it."""
    digest = hashlib.sha256()
    for split in SPLITS:
        scene = make_scene(11, split, size=48, seed=2)
        digest.update(scene.image.tobytes() + scene.seg_map.tobytes())
    assert digest.hexdigest()[:16] == '67eca2e4c5945baf'
