"""FrozenTeacher by itself: what it reads, and what it refuses."""
import copy
import gc
import os
import weakref
from contextlib import ExitStack

import pytest
import torch
from helpers import assert_equal
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmselfkd import ConfigError, FrozenTeacher
from mmselfkd.registry import MODELS
from mmselfkd.teachers import BatchContext

MODEL = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor'),
    backbone=dict(
        type='ResNetV1c', depth=18, stem_channels=4, base_channels=4,
        norm_cfg=dict(type='BN')),
    decode_head=dict(
        type='FCNHead', in_channels=32, in_index=3, channels=4, num_convs=1,
        num_classes=3, norm_cfg=dict(type='BN')),
    auxiliary_head=dict(
        type='FCNHead', in_channels=16, in_index=2, channels=4, num_convs=1,
        num_classes=3, norm_cfg=dict(type='BN')))
CONFIG = dict(model=MODEL, default_scope='mmseg')


def batch(inputs, samples=None):
    return BatchContext(torch.nn.Module(), inputs, samples)


def rehearse(teacher, inputs, samples=None):
    context = batch(inputs, samples)
    teacher.fit(context, ExitStack())
    return teacher.rehearse(context)


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint as mmengine writes it; returns its path and weights."""
    torch.manual_seed(1)
    model = MODELS.build(dict(MODEL, _scope_='mmseg'))
    path = tmp_path / 'teacher.pth'
    torch.save(
        dict(meta=dict(dataset_meta=dict(classes=('a', 'b', 'c'))),
             state_dict=model.state_dict()), path)
    return str(path), model


def test_config_as_dict_config_model_path_and_name(tmp_path, checkpoint):
    path, model = checkpoint
    file = tmp_path / 'teacher.py'
    Config(CONFIG).dump(file)
    with DefaultScope.overwrite_default_scope('mmseg'):
        for config in (CONFIG, Config(CONFIG), MODEL, str(file)):
            teacher = FrozenTeacher(config, path)
            own = model.state_dict()
            assert_equal(teacher.model.state_dict(), {
                name: value for name, value in own.items()
                if 'auxiliary_head' not in name})
    assert teacher.classes == ('a', 'b', 'c')


def test_name_of_a_host_config_from_another_scope():
    with DefaultScope.overwrite_default_scope('mmdet'):
        teacher = FrozenTeacher(
            'mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py',
            'random')
    assert type(teacher.model.decode_head).__name__ == 'FCNHead'
    assert teacher.model.decode_head.conv_seg.out_channels == 19


def test_frozen_evaluating_and_without_auxiliary_head(checkpoint):
    teacher = FrozenTeacher(CONFIG, checkpoint[0])
    teacher.request('logits', 'key', torch.nn.Module())
    x = torch.rand(2, 3, 32, 32, requires_grad=True)
    taught = rehearse(teacher, x).levels['logits'][0]
    assert not any(m.training for m in teacher.model.modules())
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert not hasattr(teacher.model, 'auxiliary_head')
    assert not taught.requires_grad
    again = teacher.teach(batch(x), ['logits']).levels['logits'][0]
    assert torch.equal(taught, again)  # neither dropout nor batch statistics


def test_samples_reach_the_teacher_without_ground_truth():
    sample = SegDataSample(metainfo=dict(img_shape=(32, 32)))
    sample.gt_sem_seg = PixelData(data=torch.zeros(1, 32, 32))
    teacher = FrozenTeacher(CONFIG, 'random')
    seen = []
    teacher.model.register_forward_pre_hook(
        lambda module, args: seen.extend(args[1]))
    teacher.request('logits', 'key', torch.nn.Module())
    rehearse(teacher, torch.rand(1, 3, 32, 32), [sample])
    assert seen[0].img_shape == (32, 32)
    assert not seen[0].keys()
    assert 'gt_sem_seg' in sample


@pytest.mark.parametrize('before, after', [
    ('', 'module.'), ('', '_orig_mod.'), ('', 'module._orig_mod.'),
    ('backbone.', 'backbone._orig_mod.'),
    ('decode_head.', 'module.decode_head._orig_mod.')])
def test_weights_of_wrappers(tmp_path, checkpoint, before, after):
    """Of data parallel, averaged and compiled models."""
    path, model = checkpoint
    own = model.state_dict()
    state = {name.replace(before, after, 1) if name.startswith(before)
             else name: value for name, value in own.items()}
    assert state.keys() != own.keys()
    state.update(steps=torch.tensor(3), n_averaged=torch.tensor(1))
    torch.save(state, tmp_path / 'wrapped.pth')
    found = FrozenTeacher(CONFIG, str(tmp_path / 'wrapped.pth')).model
    assert_equal(found.state_dict(), {
        name: own[name] for name in found.state_dict()})


def test_what_a_model_makes_by_itself_may_be_missing(tmp_path, checkpoint):
    state = checkpoint[1].state_dict()
    state['backbone._extra_state'] = None
    torch.save(state, tmp_path / 'less.pth')
    config = copy.deepcopy(CONFIG)
    config['model']['decode_head']['loss_decode'] = dict(
        type='mmselfkd.LossWithBuffer')
    teacher = FrozenTeacher(config, str(tmp_path / 'less.pth'))
    assert teacher.model.decode_head.loss_decode.count.tolist() == [1, 1]


@MODELS.register_module()
class LossWithBuffer(torch.nn.Module):
    loss_name = 'loss_x'

    def __init__(self):
        super().__init__()
        self.register_buffer('count', torch.ones(2))


def test_building_leaves_the_random_stream_alone():
    before = torch.get_rng_state()
    FrozenTeacher(CONFIG, 'random')
    assert torch.equal(before, torch.get_rng_state())


def test_no_tensor_is_kept_between_runs(checkpoint):
    teacher = FrozenTeacher(CONFIG, checkpoint[0])
    teacher.request('logits', 'key', torch.nn.Module())
    passed = []
    teacher.model.decode_head.conv_seg.register_forward_hook(
        lambda module, args, out: passed.append(weakref.ref(out)))
    rehearse(teacher, torch.rand(2, 3, 32, 32))
    teacher.teach(batch(torch.rand(2, 3, 32, 32)), ['logits'])
    gc.collect()
    assert len(passed) == 2 and not any(ref() is not None for ref in passed)


@pytest.mark.parametrize('change, says', [
    (lambda s: s.pop('decode_head.conv_seg.weight'),
     ['1 weights missing', 'decode_head.conv_seg.weight']),
    (lambda s: s.update({'neck.x': torch.zeros(1)}),
     ['1 weights unexpected', 'neck.x']),
    (lambda s: s.update({'decode_head.conv_seg.bias': torch.zeros(9)}),
     ['of another shape', '(9,) instead of (3,)']),
])
def test_weights_that_do_not_fit(tmp_path, checkpoint, change, says):
    state = checkpoint[1].state_dict()
    change(state)
    path = str(tmp_path / 'bad.pth')
    torch.save(dict(state_dict=state), path)
    with pytest.raises(ConfigError) as error:
        FrozenTeacher(CONFIG, path, key='NFDHook.teacher')
    for part in ['NFDHook.teacher.checkpoint', 'bad.pth', *says]:
        assert part in str(error.value)


def old_fcos(**head):
    """Weights of a tiny FCOS under the names of early versions of mmdet."""
    model = dict(
        type='FCOS',
        backbone=dict(type='ResNet', depth=18, base_channels=4),
        neck=dict(type='FPN', in_channels=[32], out_channels=32, num_outs=1),
        bbox_head=dict(
            type='FCOSHead', in_channels=32, feat_channels=32, **head))
    state = MODELS.build(dict(model, _scope_='mmdet')).state_dict()
    return model, {
        name.replace('bbox_head.conv_', 'bbox_head.fcos_'): weight
        for name, weight in state.items()}


def test_names_of_older_weights(tmp_path):
    config, state = old_fcos(num_classes=2)
    torch.save(dict(state_dict=state), tmp_path / 'old.pth')
    config = dict(model=config, default_scope='mmdet')
    own = FrozenTeacher(config, str(tmp_path / 'old.pth')).model.state_dict()
    assert 'bbox_head.conv_cls.weight' in own
    assert_equal(list(own.values()), list(state.values()))

    _, state = old_fcos(num_classes=3)
    torch.save(dict(state_dict=state), tmp_path / 'old.pth')
    with pytest.raises(ConfigError, match='does not fit(.|\n)*size'):
        FrozenTeacher(config, str(tmp_path / 'old.pth'))


def test_auxiliary_weights_do_not_matter(tmp_path, checkpoint):
    state = {k: v for k, v in checkpoint[1].state_dict().items()
             if not k.startswith('auxiliary_head')}
    torch.save(dict(state_dict=state), tmp_path / 'x.pth')
    FrozenTeacher(CONFIG, str(tmp_path / 'x.pth'))


def test_checkpoint_that_is_missing_names_the_nearest(tmp_path, checkpoint):
    with pytest.raises(ConfigError, match="nearest: 'teacher.pth'"):
        FrozenTeacher(CONFIG, str(tmp_path / 'teachr.pth'))
    with pytest.raises(ConfigError, match='nor its folder'):
        FrozenTeacher(CONFIG, str(tmp_path / 'gone/teacher.pth'))
    with pytest.raises(ConfigError, match="'random'"):
        FrozenTeacher(CONFIG)


def test_checkpoint_that_is_broken(tmp_path):
    (tmp_path / 'x.pth').write_bytes(b'not a checkpoint')
    with pytest.raises(ConfigError, match='cannot be read'):
        FrozenTeacher(CONFIG, str(tmp_path / 'x.pth'))
    torch.save([1, 2], tmp_path / 'y.pth')
    with pytest.raises(ConfigError, match='holds a list'):
        FrozenTeacher(CONFIG, str(tmp_path / 'y.pth'))
    torch.save(dict(ema_state_dict=dict(a=torch.ones(1))), tmp_path / 'z.pth')
    with pytest.raises(ConfigError, match='no weights, but ema_state_dict'):
        FrozenTeacher(CONFIG, str(tmp_path / 'z.pth'))


@pytest.mark.parametrize('config, says', [
    ('gone.py', f'no such file in {os.getcwd()!r}; '),
    ('gone/gone.py', f'no such file, nor its folder .{os.getcwd()}/gone.'),
    ('mmseg::pspnet/gone.py', 'cannot be read'),
    ('mmgone::pspnet/gone.py', 'cannot be read'),
    (5, 'is needed'),
    ({}, 'no key `model`'),
    (dict(model=dict(type='Gone')), 'cannot be built'),
])
def test_config_that_cannot_be_used(config, says):
    with pytest.raises(ConfigError, match=says) as error:
        FrozenTeacher(config, 'random', key='NFDHook.teacher')
    assert 'NFDHook.teacher.config' in str(error.value)


def scores(checkpoint, x, **options):
    """The class scores; weight, input and output of all convolutions."""
    teacher = FrozenTeacher(CONFIG, checkpoint, **options)
    teacher.request('logits', 'key', torch.nn.Module())
    rehearse(teacher, x)
    seen = []
    for module in teacher.model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(
                lambda module, args, out: seen.append(
                    (module.weight, args[0], out)))
    return teacher.teach(batch(x), ['logits']).levels['logits'][0], seen


@pytest.mark.parametrize('precision, dtype, tolerance', [
    ('fp16', torch.float16, 5e-3), ('bf16', torch.bfloat16, 4e-2)])
def test_precision(checkpoint, precision, dtype, tolerance):
    x = torch.rand(2, 3, 32, 32)
    full, convolutions = scores(checkpoint[0], x)
    assert {out.dtype for *_, out in convolutions} == {torch.float32}
    less, convolutions = scores(checkpoint[0], x, precision=precision)
    assert {out.dtype for *_, out in convolutions} == {less.dtype} == {dtype}
    error = (less.float() - full).norm() / full.norm()
    assert 0 < error < tolerance
    assert not torch.is_autocast_enabled('cpu')  # the student's is its own


def test_precision_of_its_own_under_autocast(checkpoint):
    """The run's, unless one is asked for."""
    x = torch.rand(2, 3, 32, 32)
    with torch.autocast('cpu', torch.bfloat16):
        assert scores(checkpoint[0], x)[0].dtype == torch.bfloat16
        assert scores(checkpoint[0], x,
                      precision='fp16')[0].dtype == torch.float16


def test_channels_last(checkpoint):
    """The same values; no convolution sees another layout."""
    x = torch.rand(2, 3, 32, 32)
    full, convolutions = scores(checkpoint[0], x)
    last = dict(memory_format=torch.channels_last)
    assert not all(out.is_contiguous(**last) for *_, out in convolutions)
    same, convolutions = scores(checkpoint[0], x, channels_last=True)
    assert all(seen.is_contiguous(**last)
               for three in convolutions for seen in three)
    torch.testing.assert_close(same, full, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('options, says', [
    (dict(precision='bf15'), r"precision = 'bf15': .*; nearest: 'bf16'"),
    (dict(precision='half'), r"precision = 'half': .*'bf16', 'fp16'"),
    (dict(precision=16), r'precision = 16: .*fp16'),
    (dict(precision=['fp16']), r"precision = \['fp16'\]: "),
    (dict(channels_last='yes'), r"channels_last = 'yes': True or False"),
    (dict(input_size=32), r'input_size = 32: \(height, width\) in pixels')])
def test_options_that_are_unknown(options, says):
    with pytest.raises(ConfigError, match=says) as error:
        FrozenTeacher(CONFIG, 'random', key='NFDHook.teacher', **options)
    assert 'NFDHook.teacher.' in str(error.value)


def test_options_are_told():
    for options, told in ((dict(precision='bf16', channels_last=True),
                           'not trained, bf16, channels last'),
                          ({}, 'not trained')):
        teacher = FrozenTeacher(CONFIG, 'random', **options)
        teacher.request('logits', 'key', torch.nn.Module())
        rehearse(teacher, torch.rand(1, 3, 32, 32))
        assert teacher.describe().endswith(told)


def samples_of(labels):
    samples = [SegDataSample(metainfo=dict(img_shape=(32, 32)))
               for _ in labels]
    for sample, label in zip(samples, labels):
        sample.gt_sem_seg = PixelData(data=label[None])
    return samples


@pytest.mark.parametrize('classes, is_told', [(3, True), (5, False)])
def test_its_own_loss_on_the_labels_is_told(checkpoint, classes, is_told):
    """Which shows a teacher of other data; of equal classes only."""
    student = MODELS.build(dict(MODEL, _scope_='mmseg', decode_head=dict(
        MODEL['decode_head'], num_classes=classes)))
    inputs = torch.rand(2, 3, 32, 32)
    labels = torch.randint(0, 3, (2, 32, 32))
    context = BatchContext(student, inputs, samples_of(labels))
    teacher = FrozenTeacher(CONFIG, checkpoint[0])
    teacher.request('logits', 'key', student)
    teacher.fit(context, ExitStack())
    teacher.rehearse(context)
    expected = FrozenTeacher(CONFIG, checkpoint[0]).model.eval().loss(
        inputs, samples_of(labels))['decode.loss_ce']
    told = f'loss_ce {float(expected):.3g}' in teacher.describe()
    assert told == is_told
    for sample, label in zip(context.samples, labels):
        assert torch.equal(sample.gt_sem_seg.data[0], label)


def test_teaching_reads_no_value(checkpoint):
    """On a GPU each would be a wait: see test_losses/test_device.py."""
    other = Config(CONFIG)
    other.model.data_preprocessor.update(
        mean=[1., 2., 3.], std=[4., 5., 6.], bgr_to_rgb=True)
    teacher = FrozenTeacher(other, 'random', channels_last=True)
    student = MODELS.build(dict(
        MODEL, _scope_='mmseg', data_preprocessor=dict(
            type='SegDataPreProcessor', mean=[0.] * 3, std=[1.] * 3)))
    samples = [SegDataSample(metainfo=dict(img_shape=shape))
               for shape in ((30, 32), (32, 20))]  # padded

    def context():
        return BatchContext(
            student, torch.rand(2, 3, 32, 32, device='meta'), samples)

    teacher.request('logits', 'key', student)
    teacher.fit(context(), ExitStack())
    teacher.rehearse(context())
    levels = teacher.teach(context(), ['logits']).levels['logits']
    assert [level.device.type for level in levels] == ['meta']
    assert context().layout.weight((8, 8)).device.type == 'meta'
