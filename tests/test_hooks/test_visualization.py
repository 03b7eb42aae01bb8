"""Pictures of what the losses compare; the student is the same."""
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tiny_detectors
import tiny_runs
import torch
from helpers import KD, NFD, Spy, assert_equal, load, pair, train
from mmengine.registry import HOOKS, MODELS, VISBACKENDS
from mmengine.visualization import BaseVisBackend

from mmselfkd import ConfigError, DistillVisualizationHook
from mmselfkd.hooks import drawing, visualization
from mmselfkd.losses import icsd_loss


@VISBACKENDS.register_module()
class Kept(BaseVisBackend):
    """Keeps what a run writes."""

    images = []

    def _init_env(self):
        """It needs nothing."""

    @property
    def experiment(self):
        return self

    def add_image(self, name, image, step=0, **kwargs):
        self.images.append((name, step, image))


@pytest.fixture
def kept():
    Kept.images.clear()
    return Kept.images


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn: the arguments by function; nothing is."""
    calls = []

    def record(function):
        def draw(*args):
            calls.append((function, *args))
            return np.zeros((2, 2, 3), np.uint8)
        return draw

    for name in ('draw_maps', 'draw_matrices'):
        monkeypatch.setattr(visualization, name, record(name))
    return calls


def config(work_dir, losses, draw, iters=1, teacher=None, **changes):
    cfg = tiny_runs.config(
        work_dir, dict(type='mmselfkd.DistillHook', losses=losses,
                       teacher=teacher or tiny_runs.teacher()), iters=iters,
        **changes)
    add(cfg, draw)
    return cfg


def add(cfg, draw):
    """The hook and a backend that keeps the pictures."""
    if draw is not None:
        cfg.custom_hooks.append(
            dict(dict(type='mmselfkd.DistillVisualizationHook'), **draw))
    cfg.visualizer = dict(type='Visualizer', name=f'kept{id(cfg)}',
                          vis_backends=[dict(type='Kept')])


LOSSES = dict(loss_kd=KD, loss_nfd=NFD)


def test_the_student_is_the_same_and_pictures_lie_in_its_folder(tmp_path):
    """Bit for bit, with dropout, statistics of BN and an adapter."""
    saved = []
    for draw in (None, dict(interval=2, indices=[1], source='logits')):
        folder = tmp_path / str(draw is None)
        cfg = config(folder, LOSSES, draw, iters=3)
        cfg.visualizer = dict(
            type='Visualizer', name=f'files{draw is None}',
            vis_backends=[dict(type='LocalVisBackend')])
        train(cfg)
        saved.append(load(folder, 3))
    for entry in ('state_dict', 'optimizer', 'mmselfkd'):
        assert_equal(saved[0][entry], saved[1][entry], entry)
    assert_equal(*({
        key: buffer.data[0].tolist() for key, buffer in one['message_hub'][
            'log_scalars'].items() if 'loss' in key} for one in saved))
    assert not list(tmp_path.glob('True/**/*.png'))
    paths = list(tmp_path.glob('False/*/vis_data/vis_image/*.png'))
    assert {path.name for path in paths} == {
        f'distill_loss_kd_{kind}_image1_{step}.png'
        for kind in ('maps', 'similarity', 'classes') for step in (0, 2)}
    for path in paths:
        picture = cv2.imread(str(path))
        assert min(picture.shape[:2]) > 200 and picture.std() > 10


def test_what_is_drawn_is_what_the_loss_was_given(tmp_path, spy, drawn, kept):
    """Of features: the second image of the batch, at a given pixel."""
    cfg = config(tmp_path, dict(loss_spy=dict(
        type='Spy', source=pair('features', 'backbone[2]'))), dict(
            indices=1, pixel=(31, 0), interval=5))
    train(cfg)
    student, teacher = (side[1].detach() for side in Spy.calls[-1])
    (_, title, image, rows, scale, names, pixel), similar = drawn
    assert title == 'distill.loss_spy'
    assert names == ['student: features', 'teacher: backbone[2]']
    assert image.shape == (32, 32, 3)
    assert 0 <= image.min() < image.max() <= 1
    assert pixel is None
    (label, maps), = rows
    assert label == '{} x {}'.format(*student.shape[1:])
    for shown, side in zip(maps, (student, teacher)):
        energy = side.square().mean(0)
        np.testing.assert_allclose(
            shown, energy / energy.mean(), rtol=1e-4, atol=1e-5)
    assert scale.limits(maps)[1] == pytest.approx(np.percentile(
        np.concatenate([side.ravel() for side in maps]), 99))
    (_, found), = similar[3]
    assert similar[6] == (31, 0)
    for shown, side in zip(found, (student, teacher)):
        expected = torch.cosine_similarity(
            side, side[:, :1, -1:].expand_as(side), dim=0)
        np.testing.assert_allclose(shown, expected, rtol=1e-4, atol=1e-5)
    assert [(name, step) for name, step, _ in kept] == [
        ('distill_loss_spy_maps_image1', 0),
        ('distill_loss_spy_similarity_image1', 0)]


def test_of_class_scores_probabilities_and_the_matrix_of_icsd(
        tmp_path, drawn, kept):
    """With the names of the classes; several teachers; one kind alone."""
    cfg = config(tmp_path, dict(
        loss_kd=dict(KD, source=pair('logits', 'big:logits')),
        loss_own=dict(KD, source=pair('logits', 'average:logits')),
        loss_nfd=dict(NFD, source=pair('features', 'big:features'))),
        dict(source='logits', kinds=['maps', 'classes']),
        teacher=dict(big=tiny_runs.teacher(),
                     average=dict(type='EMATeacher')))
    train(cfg)
    assert [call[0] for call in drawn] == ['draw_maps', 'draw_matrices'] * 2
    (_, _, _, ((_, maps), ), scale, _, _), (_, _, both, names, *_) = drawn[:2]
    assert scale.limits(maps) == (0, 1)
    assert all(1 / 7 <= side.min() and side.max() <= 1 for side in maps)
    assert names[0] == 'ground' and len(names) == 7
    assert [side.shape for side in both] == [(7, 7)] * 2
    assert drawn[2][5] == ['student: logits', 'average: logits']
    logits = [torch.randn(1, 7, 4, 4) for _ in range(2)]
    matrices = visualization._both(logits)
    assert np.square(matrices[0] - matrices[1]).mean() == pytest.approx(
        float(icsd_loss(*logits)), rel=1e-4)


def test_a_detector_with_levels_anchors_and_padding(tmp_path, drawn, kept):
    """What a batch adds to an image is not drawn."""
    cfg = tiny_detectors.config(tmp_path, 'retinanet', dict(
        type='mmselfkd.DistillHook', losses=dict(LOSSES),
        teacher=tiny_detectors.teacher('retinanet', 16)))
    add(cfg, dict(kinds=['maps', 'similarity']))
    train(cfg)
    for _, _, image, rows, _, _, _ in drawn[:4]:
        assert len(rows) == 5
        for label, pair_ in rows:
            assert pair_[0].shape == pair_[1].shape
            assert label == '{} x {}'.format(*pair_[0].shape)
        tall, wide = (image.shape[i] / rows[0][1][0].shape[i] for i in (0, 1))
        assert tall == pytest.approx(8, rel=.2) and wide == pytest.approx(
            8, rel=.2)
    level = torch.arange(2 * 9 * 3 * 8 * 8.).view(18, 3, 8, 8)
    cut = visualization._of_image(level, 1, 2, (.5, 1.))
    assert torch.equal(cut, level[9:, :, :4])


def test_distributions_of_boxes_are_no_classes(tmp_path, drawn, kept):
    cfg = tiny_detectors.config(tmp_path, 'gfl', dict(
        type='mmselfkd.DistillHook', losses=dict(
            loss_kd=dict(KD, source='boxes', ignore_index=None)),
        teacher=tiny_detectors.teacher('gfl', 16)))
    add(cfg, dict(kinds=['maps', 'classes']))
    train(cfg)
    assert {call[0] for call in drawn} == {'draw_maps'}
    assert {call[4] for call in drawn} == {visualization.ENERGY}


def test_what_has_no_place_in_the_image_is_left_out(tmp_path, kept):
    cfg = tiny_detectors.config(tmp_path, 'faster', dict(
        type='mmselfkd.DistillHook', losses=dict(
            loss_roi=dict(type='FitNetsLoss',
                          source='roi_head.bbox_head.shared_fcs')),
        teacher=tiny_detectors.teacher('faster', 16)))
    add(cfg, {})
    cfg.log_level = 'INFO'
    train(cfg)
    assert kept == []
    text = next(tmp_path.glob('*/*.log')).read_text()
    assert 'distill.loss_roi is not drawn: it looks at regions' in text


def test_not_where_it_is_off(tmp_path, drawn, kept):
    """The schedule of a loss, and ``draw``."""
    losses = dict(loss_kd=KD, loss_nfd=dict(NFD, schedule=dict(
        type='LinearRamp', begin=1, end=2)))
    train(config(tmp_path / 'a', losses, dict(
        interval=1, kinds='maps'), iters=3))
    assert [(name, step) for name, step, _ in kept] == [
        (f'distill_loss_{loss}_maps', step)
        for step, on in enumerate((['kd'], ['kd'], ['kd', 'nfd']))
        for loss in on]
    kept.clear()
    train(config(tmp_path / 'b', LOSSES, dict(draw=False)))
    assert kept == []


def test_two_hooks_draw_each_its_own(tmp_path, drawn, kept):
    cfg = config(tmp_path, LOSSES, dict(
        source='logits', kinds='maps', interval=1), iters=3)
    add(cfg, dict(source='features', kinds='maps', interval=2))
    train(cfg)
    assert sorted((name, step) for name, step, _ in kept) == [
        *(('distill_loss_kd_maps', step) for step in (0, 1, 2)),
        *(('distill_loss_nfd_maps', step) for step in (0, 2))]


def test_tensorboard(tmp_path):
    pytest.importorskip('tensorboard')
    cfg = config(tmp_path, dict(loss_kd=KD), dict(kinds='maps'))
    cfg.visualizer = dict(
        type='Visualizer', name='board',
        vis_backends=[dict(type='TensorboardVisBackend')])
    train(cfg)
    from tensorboard.backend.event_processing import event_accumulator
    folder = next(tmp_path.glob('*/vis_data'))
    events = event_accumulator.EventAccumulator(
        str(folder), size_guidance=dict(images=0))
    events.Reload()
    image, = events.Images('distill_loss_kd_maps')
    assert image.step == 0 and image.width > 200


def test_it_is_known_under_its_names():
    """In configs of both styles."""
    for kind in ('mmselfkd.DistillVisualizationHook',
                 'DistillVisualizationHook', DistillVisualizationHook):
        hook = HOOKS.build(dict(type=kind, interval=7))
        assert type(hook) is DistillVisualizationHook and hook.interval == 7


@pytest.mark.parametrize('arguments, says', [
    (dict(intervall=5), ['intervall = 5', "nearest: 'interval'"]),
    (dict(interval=0), ['interval', '1 or more', '0']),
    (dict(kinds='map'), ["kinds = 'map'", "nearest: 'maps'"]),
    (dict(indices=-1), ['indices = -1', '0 or more']),
    (dict(indices=[True]), ['indices = [True]']),
    (dict(draw=1), ['draw', 'True or False']),
    *((dict(pixel=pixel), [f'pixel = {pixel!r}', 'two floats', 'integers'])
      for pixel in (.5, (.5, ), (.5, 3), (1.5, .5), (-1, 2), 'ab', (.1, True)))
])
def test_arguments_that_cannot_work(arguments, says):
    with pytest.raises(ConfigError) as error:
        DistillVisualizationHook(**arguments)
    for part in ('DistillVisualizationHook', *says):
        assert part in str(error.value)


@pytest.mark.parametrize('arguments, has_losses, says', [
    (dict(source='logit'), True, ["source = 'logit'", "nearest: 'logits'"]),
    (dict(indices=[0, 2]), True, ['indices = [0, 2]', '0 to 1']),
    ({}, False, ['no distillation hook', 'NFDHook'])])
def test_runs_that_cannot_be_drawn(tmp_path, arguments, has_losses, says):
    cfg = config(tmp_path, LOSSES, arguments)
    if not has_losses:
        del cfg.custom_hooks[0]
    with pytest.raises(ConfigError) as error:
        train(cfg)
    for part in ('DistillVisualizationHook', *says):
        assert part in str(error.value)


def test_a_pixel_is_a_share_or_a_number_of_pixels():
    size = (20, 30, 3)
    for pixel, found in (((.5, .5), (15, 10)), ((1., 0.), (29, 0)),
                         ((3, 4), (3, 4)), ((99, 99), (29, 19))):
        assert visualization._pixel_in(pixel, size) == found
    level = torch.arange(12.).view(1, 1, 3, 4) + 1
    level = torch.cat([level, level.flip(3)], 1)
    found = visualization.similarity(level, (.99, .4))
    assert found[1, 3] == pytest.approx(1) and found.argmax() == 7


def test_both_sides_have_the_same_colours():
    """Though their values differ; what is not finite takes no part."""
    image = np.full((40, 60, 3), .5)
    low, high = np.full((4, 6), 1.), np.full((4, 6), 2.)
    scale = drawing.Scale('value')
    assert scale.limits((low, high)) == (1, 2)
    high[0, 0] = np.nan
    low[0, 0] = np.inf
    assert scale.limits((low, high)) == (1, 2)
    picture = drawing.draw_maps('title', image, [('a', (low, high))], scale,
                                ('one', 'other'))
    swapped = drawing.draw_maps('title', image, [('a', (high, low))], scale,
                                ('one', 'other'))
    colours = [{tuple(c) for c in one.reshape(-1, 3)}
               for one in (picture, swapped)]
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    assert len(colours[0] & colours[1]) > 0.9 * len(colours[0])
    assert not np.array_equal(picture, swapped)


@pytest.mark.parametrize('bgr_to_rgb', [True, False])
def test_an_image_has_the_colours_of_its_file(tmp_path, bgr_to_rgb):
    """Pipelines read BGR, whichever order the student wants."""
    cfg = tiny_runs.config(tmp_path)
    cfg.model.data_preprocessor.update(
        mean=[10., 20., 30.], std=[2., 4., 5.], bgr_to_rgb=bgr_to_rgb)
    student = MODELS.build(dict(cfg.model, _scope_='mmseg'))
    pixels = torch.tensor([50., 100., 200.]).view(3, 1, 1).expand(3, 4, 4)
    inputs = student.data_preprocessor(dict(inputs=[pixels]))['inputs']
    picture = visualization._image_of(
        SimpleNamespace(student=student, inputs=inputs), 0)
    np.testing.assert_allclose(255 * picture[0, 0], (200, 100, 50), rtol=1e-4)
