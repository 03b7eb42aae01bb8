import numpy as np
import pytest

from mmselfkd.datasets.toy_scenes import (CLASSES, PALETTE, SHAPES, SPLITS,
                                          TEXTURES, SceneObject, make_scene)


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
