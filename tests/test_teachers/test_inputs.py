"""The student's batch as another model wants it, and its levels back."""
import ast
import itertools
import re
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement
from torch import nn

from mmselfkd import ConfigError
from mmselfkd.hosts import Host, InputFormat
from mmselfkd.layout import BatchLayout
from mmselfkd.teachers import BatchContext, ModelTeacher, timm_teacher
from mmselfkd.teachers.inputs import InputAdapter, with_size

RGB = InputFormat((10., 20., 30.), (2., 4., 8.), is_swapped=True)
BGR = InputFormat((31., 22., 13.), (3., 5., 7.))
RAW = InputFormat()


def layout(inputs, *shapes):
    """Of images of these sizes in the batch; none: they fill it."""
    samples = [BaseDataElement(metainfo=dict(img_shape=shape))
               for shape in shapes]
    return BatchLayout(inputs, samples or None, Host())


def preprocessed(image, form):
    """What a data preprocessor makes of an image (N, 3, H, W) in BGR."""
    image = image.flip(1) if form.is_swapped else image
    if form.mean is None:
        return image
    return (image - torch.tensor(form.mean).view(3, 1, 1)) / torch.tensor(
        form.std).view(3, 1, 1)


@pytest.mark.parametrize('ours, theirs', list(itertools.product(
    (RGB, BGR, RAW), repeat=2)))
def test_one_normalisation_becomes_another(ours, theirs):
    image = 255 * torch.rand(2, 3, 8, 8)
    inputs = preprocessed(image, ours)
    got = InputAdapter(ours, theirs, inputs)(inputs, layout(inputs))
    torch.testing.assert_close(got, preprocessed(image, theirs),
                               rtol=1e-4, atol=1e-3)
    if ours is theirs:
        assert torch.equal(got, inputs)


def test_padding_has_the_teachers_own_value():
    inputs = torch.rand(2, 3, 8, 8)
    theirs = InputFormat(RGB.mean, RGB.std, True, pad_value=5.)
    got = InputAdapter(BGR, theirs, inputs)(inputs, layout(
        inputs, (8, 8), (6, 4)))
    assert (got[1, :, 6:] == 5).all() and (got[1, :, :, 4:] == 5).all()
    assert not (got[0] == 5).any() and not (got[1, :, :6, :4] == 5).any()


@pytest.mark.parametrize('count', [1, 2, 4, 5])
def test_the_channels_that_the_error_names_work(count):
    """For a teacher of RGB, also of fewer channels than it takes."""
    inputs = torch.rand(2, count, 8, 8)
    with pytest.raises(ConfigError) as error:
        InputAdapter(RAW, RGB, inputs)
    named = re.search(r'such as channels=(\[[\d, ]+\])', str(error.value))
    channels = ast.literal_eval(named[1])
    got = InputAdapter(RAW, RGB, inputs, channels)(inputs, layout(inputs))
    torch.testing.assert_close(got, preprocessed(inputs[:, channels], RGB))


def test_some_of_the_channels():
    """In the student's order; normalised as they are."""
    ours = InputFormat((1., 2., 3., 4.), (1., 1., 1., 2.))
    inputs = torch.rand(2, 4, 8, 8)
    adapter = InputAdapter(ours, InputFormat((5., ), (3., )), inputs, [3])
    assert adapter.given == 1
    image = inputs[:, 3:] * 2 + 4
    torch.testing.assert_close(
        adapter(inputs, layout(inputs)), (image - 5) / 3)
    adapter = InputAdapter(RAW, RAW, inputs, [2, 0])
    assert torch.equal(adapter(inputs, layout(inputs)), inputs[:, [2, 0]])


@pytest.mark.parametrize('ours', [False, True])
@pytest.mark.parametrize('theirs', [False, True])
def test_four_channels_are_never_turned_around(ours, theirs):
    """Whatever the student's flag says; three of them are the teacher's."""
    inputs = torch.rand(2, 4, 8, 8)
    got = InputAdapter(
        InputFormat(is_swapped=ours), InputFormat(is_swapped=theirs), inputs,
        [0, 1, 2])(inputs, layout(inputs))
    three = inputs[:, :3]
    torch.testing.assert_close(got, three.flip(1) if theirs else three)


@pytest.mark.parametrize('channels', [
    [4], [-1], ['0'], [0.5], [True], [], 'r', 1, {}])
def test_channels_that_the_student_does_not_have(channels):
    with pytest.raises(ConfigError, match='NFDHook.teacher.channels.*0 to 3'):
        InputAdapter(RAW, RAW, torch.rand(1, 4, 8, 8), channels,
                     'NFDHook.teacher')


def test_statistics_of_another_number_of_channels():
    with pytest.raises(ConfigError, match=(
            'NFDHook.teacher.channels = None: the teacher takes 3 .*given 4 '
            r'.*channels=\[0, 1, 2\]')):
        InputAdapter(RAW, RGB, torch.rand(1, 4, 8, 8), key='NFDHook.teacher')


@pytest.mark.parametrize('size, padded', [
    ((8, 12), (8, 12)), ((9, 12), (12, 12)), ((7, 5), (8, 8))])
def test_multiples_of_a_size(size, padded):
    """Padded at the right and at the bottom; levels are cut back."""
    inputs = torch.rand(2, 3, *size)
    theirs = InputFormat(multiple=4, pad_value=7.)
    adapter = InputAdapter(RAW, theirs, inputs)
    got = adapter(inputs, layout(inputs))
    assert got.shape[2:] == padded
    assert torch.equal(got[:, :, :size[0], :size[1]], inputs)
    assert (got[:, :, size[0]:] == 7).all()
    assert (got[:, :, :, size[1]:] == 7).all()
    # a level of the padded input at full size is cut exactly
    assert torch.equal(adapter.cut(got, size), inputs)


def test_a_level_is_cut_to_what_covers_the_input():
    """Also where that is no whole number of cells: a ramp stays one."""
    size, padded = (16, 20), (24, 24)
    adapter = InputAdapter(RAW, InputFormat(multiple=12), torch.rand(
        1, 1, *size))
    # the position of each cell's centre in pixels, in cells of 4 and 6
    for cell in (4, 6):
        centres = (torch.arange(padded[1] // cell) + 0.5) * cell
        level = centres.expand(1, 1, padded[0] // cell, -1)
        got = adapter.cut(level, size)
        cells = got.shape[3]
        assert cells == -(-size[1] // cell)
        expected = (torch.arange(cells) + 0.5) * size[1] / cells
        torch.testing.assert_close(
            got[0, 0, 0], expected.clamp(*centres[[0, -1]].tolist()))


def test_only_what_is_said_is_another():
    form = with_size(RGB, (8, 8), 'teacher')
    assert form.size == (8, 8)
    assert (form.mean, form.std, form.is_swapped) == (
        RGB.mean, RGB.std, RGB.is_swapped)


def test_one_size_only():
    """Resized to it, and the levels are those of the whole image."""
    inputs = torch.rand(2, 3, 12, 20)
    adapter = InputAdapter(RAW, InputFormat(size=(8, 8)), inputs)
    got = adapter(inputs, layout(inputs))
    torch.testing.assert_close(got, F.interpolate(
        inputs, (8, 8), mode='bilinear', align_corners=False))
    assert torch.equal(adapter.cut(got, (12, 20)), got)
    same = torch.rand(2, 3, 8, 8)
    assert torch.equal(adapter(same, layout(same)), same)


class Net(nn.Module):

    def __init__(self, channels):
        super().__init__()
        self.fold = nn.PixelUnshuffle(2)
        self.conv = nn.Conv2d(channels, 2, 1)
        self.folds = channels == 12

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.conv(self.fold(inputs) if self.folds else inputs)


def rehearsed(student_channels, model, **options):
    context = BatchContext(
        nn.Module(), torch.rand(2, student_channels, 8, 8), None)
    teacher = ModelTeacher(model, key='NFDHook.teacher', **options)
    teacher.request('conv', 'key', nn.Module())
    teacher.fit(context, ExitStack())
    return context, teacher.rehearse(context).levels['conv'][0]


def test_a_teacher_of_fewer_channels():
    with pytest.raises(ConfigError, match=(
            'NFDHook.teacher.channels = None: the teacher takes 3 .*given 4 '
            r'.*channels=\[0, 1, 2\]')):
        rehearsed(4, Net(3))
    model = Net(3)
    context, level = rehearsed(4, model, channels=[0, 1, 3])
    assert torch.equal(level, model(context.inputs[:, [0, 1, 3]]))


def test_a_first_convolution_that_is_not_on_the_image():
    """YOLOX folds four pixels into the channels of one."""
    model = Net(12)
    context, level = rehearsed(3, model)
    assert torch.equal(level, model(context.inputs))


@pytest.mark.parametrize('in_chans, mean', [
    (3, [25.5, 51., 76.5]), (1, [51.]), (4, [51.])])
def test_statistics_of_a_timm_model(in_chans, mean):
    """Those of RGB, or one for all of another number of channels."""
    net = SimpleNamespace(pretrained_cfg=dict(
        mean=(0.1, 0.2, 0.3), std=(0.2, 0.4, 0.6), input_size=(3, 8, 8)))
    form = timm_teacher._input_format(net, False, in_chans)
    assert form.mean == pytest.approx(mean)
    assert form.std == pytest.approx([2 * value for value in mean])
    inputs = torch.rand(1, in_chans, 8, 8)
    assert InputAdapter(RAW, form, inputs)(
        inputs, layout(inputs)).shape == inputs.shape
