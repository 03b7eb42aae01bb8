import math

import pytest
import torch
import torch.nn.functional as F
from helpers import teacher_model
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmselfkd.losses.holistic_loss import HolisticLoss
from mmselfkd.models.depth_head import DepthHead

SIZES = [(12, 10), (6, 5), (3, 3)]
CHANNELS = [4, 8, 6]


def head(**changes):
    values = dict(
        in_channels=CHANNELS, channels=5, in_index=[0, 1, 2], min_depth=0.5,
        max_depth=8.)
    built = DepthHead(**{**values, **changes})
    generator = torch.Generator().manual_seed(1)
    for parameter in built.parameters():
        parameter.data = torch.randn(
            parameter.shape, generator=generator) * 0.5
    return built.eval()


def levels(count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, c, *size, generator=generator)
            for c, size in zip(CHANNELS, SIZES)]


def samples(*maps):
    made = []
    for depth in maps:
        sample = SegDataSample()
        sample.set_data(dict(gt_depth_map=PixelData(data=depth[None])))
        made.append(sample)
    return made


def estimator(**changes):
    """A DepthEstimator of mmseg as its config describes it."""
    init_default_scope('mmseg')
    return MODELS.build(ConfigDict(
        type='DepthEstimator',
        data_preprocessor=dict(type='SegDataPreProcessor', size=(32, 32)),
        backbone=dict(type='ResNetV1c', depth=18, stem_channels=4,
                      base_channels=4),
        decode_head=dict(
            type='mmselfkd.DepthHead', in_channels=[4, 8, 16, 32],
            in_index=[0, 1, 2, 3], channels=4, **changes),
        test_cfg=dict(mode='whole')))


def silog(pairs):
    """Of (prediction, truth) pairs of one image."""
    logs = [math.log(truth) - math.log(depth) for depth, truth in pairs]
    mean = sum(logs) / len(logs)
    return math.sqrt(sum(x * x for x in logs) / len(logs) - 0.5 * mean**2)


def test_forward_against_plain_convolutions():
    built, inputs = head(), levels()
    state = built.state_dict()

    def conv(x, name, padding=0):
        out = F.conv2d(x, state[f'{name}.weight'], state[f'{name}.bias'],
                       padding=padding)
        return out if name.startswith('conv_depth') else out.relu()

    def up(x, size):
        return F.interpolate(x, size, mode='bilinear', align_corners=False)

    low = conv(inputs[2], 'laterals.2.conv')
    middle = conv(inputs[1], 'laterals.1.conv') + up(low, SIZES[1])
    high = conv(inputs[0], 'laterals.0.conv') + up(middle, SIZES[0])
    score = conv(conv(high, 'fusion.conv', 1), 'conv_depth.0')
    assert len(state) == 2 * 5  # and nothing else, such as a classifier
    expected = 0.5 + 7.5 / (1 + (-score).exp())
    assert torch.allclose(built(inputs), expected, atol=1e-5)
    assert expected.std() > 0.1


def test_output_of_conv_depth_is_the_depth_in_metres():
    built, seen = head(), []
    built.conv_depth.register_forward_hook(lambda m, a, out: seen.append(out))
    depth = built(levels())
    assert seen[0] is depth and depth.shape == (2, 1, *SIZES[0])
    assert (depth > 0.5).all() and (depth < 8).all()
    # grows with the score
    x = torch.randn(1, 5, 3, 3)
    scores = built.conv_depth[0](x).flatten()
    assert torch.equal(built.conv_depth(x).flatten().argsort(),
                       scores.argsort())


def test_dropout_stands_between_fusion_and_conv_depth():
    built = head(dropout_ratio=0.5).train()
    seen = {}
    for name in ('fusion', 'dropout', 'conv_depth'):
        getattr(built, name).register_forward_hook(
            lambda m, args, out, name=name: seen.update(
                {name: (args[0], out)}))
    built(levels())
    assert seen['dropout'][0] is seen['fusion'][1]
    assert seen['conv_depth'][0] is seen['dropout'][1]
    assert head().dropout is None


def test_in_index_picks_the_levels():
    inputs = levels()
    built = head(in_channels=[6], in_index=[2])
    assert built(inputs).shape == (2, 1, *SIZES[2])


def test_loss_against_the_formula():
    built, inputs = head(), levels()
    depth = built(inputs)
    truth = torch.rand(2, *SIZES[0]) * 7 + 0.6
    loss = built.loss(inputs, samples(*truth), None)
    assert list(loss) == ['loss_silog']
    expected = sum(
        silog(zip(depth[i].flatten().tolist(), truth[i].flatten().tolist()))
        for i in range(2)) / 2
    assert loss['loss_silog'].item() == pytest.approx(expected, rel=1e-5)


def test_invalid_pixels_count_nothing():
    built, inputs = head(), levels()
    truth = torch.rand(2, *SIZES[0]) * 7 + 0.6
    truth[0, :4] = 0
    truth[0, 4, 0] = 8.5  # beyond the range
    truth[0, 4, 1] = 0.4  # nearer than the range
    truth[0, 4, 2] = float('nan')
    truth[0, 4, 3] = float('inf')
    truth[1, 0, 0] = 255  # padding
    depth = built(inputs)
    loss = built.loss(inputs, samples(*truth), None)['loss_silog']
    expected = []
    for i in range(2):
        pairs = zip(depth[i].flatten().tolist(), truth[i].flatten().tolist())
        expected.append(silog([(d, t) for d, t in pairs if 0.5 <= t <= 8]))
    assert loss.item() == pytest.approx(sum(expected) / 2, rel=1e-5)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in built.parameters())


def test_images_without_a_valid_pixel():
    inputs = levels()
    truth = torch.rand(2, *SIZES[0]) * 7 + 0.6
    alone = head().loss([x[1:] for x in inputs], samples(truth[1]), None)
    truth[0] = 0
    built = head()
    loss = built.loss(inputs, samples(*truth), None)['loss_silog']
    assert loss.item() == pytest.approx(alone['loss_silog'].item(), rel=1e-5)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in built.parameters())

    built = head()
    none = built.loss(inputs, samples(*(truth * 0)), None)['loss_silog']
    assert none.item() == 0
    none.backward()
    assert all((p.grad == 0).all() for p in built.parameters())


def test_loss_is_taken_at_the_size_of_the_truth():
    built, inputs = head(), levels()
    truth = torch.rand(2, 17, 20) * 7 + 0.6
    depth = F.interpolate(built(inputs), (17, 20), mode='bilinear')
    expected = sum(
        silog(zip(depth[i].flatten().tolist(), truth[i].flatten().tolist()))
        for i in range(2)) / 2
    told = built.loss(inputs, samples(*truth), None)['loss_silog']
    assert told.item() == pytest.approx(expected, rel=1e-5)


def test_several_losses_are_summed_by_name():
    inputs = levels()
    truth = samples(*(torch.rand(2, *SIZES[0]) * 7 + 0.6))
    single = head().loss(inputs, truth, None)['loss_silog']
    several = head(loss_decode=[
        dict(type='mmseg.SiLogLoss', loss_weight=2.),
        dict(type='mmseg.SiLogLoss', loss_weight=3.),
        dict(type='mmseg.SiLogLoss', loss_name='loss_other')]).loss(
            inputs, truth, None)
    assert several['loss_silog'].item() == pytest.approx(5 * single.item())
    assert several['loss_other'].item() == pytest.approx(single.item())


def test_estimator_predicts_metres_at_the_size_of_the_image():
    model = estimator(max_depth=8.).eval()
    images = [torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)]
    sample = SegDataSample(metainfo=dict(
        ori_shape=(48, 40), img_shape=(32, 32)))
    with torch.no_grad():
        result, = model.test_step(dict(inputs=images, data_samples=[sample]))
    depth = result.pred_depth_map.data
    assert depth.shape == (1, 48, 40)
    assert (depth > 0).all() and (depth < 8).all()


def test_it_starts_in_the_middle_of_the_range():
    model = estimator(min_depth=2., max_depth=8.)
    model.init_weights()
    depth = model.eval()(torch.zeros(1, 3, 32, 32), mode='tensor')
    assert depth.flatten().tolist() == pytest.approx([5.] * 64, abs=0.1)
    assert model.decode_head.conv_depth[0].weight.std() < 0.02


def test_stock_checkpoint_loads_strictly():
    first, second = estimator(), estimator()
    assert not any('conv_seg' in key for key in first.state_dict())
    second.load_state_dict(first.state_dict(), strict=True)


@pytest.mark.parametrize('changes, told', [
    (dict(in_channels=4), r'in_channels = 4: a list'),
    (dict(min_depth=0), r'min_depth = 0, max_depth = 8.0'),
    (dict(min_depth=8.), r'min_depth = 8.0, max_depth = 8.0'),
    (dict(max_depth=-1), r'max_depth = -1'),
])
def test_bad_arguments_are_named(changes, told):
    with pytest.raises(ValueError, match=told):
        head(**changes)


def test_without_mmseg_only_building_it_fails(run_without):
    run = run_without(
        'from mmselfkd.registry import MODELS\n'
        'print(MODELS.get("BiFPN").__name__)\n'
        'MODELS.get("DepthHead")([4], 4)\n', 'mmseg')
    assert run.returncode == 1 and run.stdout.endswith('BiFPN\n')
    assert run.stderr.splitlines()[-1].startswith('ImportError: DepthHead')


# --- distillation -----------------------------------------------------------

LOSSES = dict(
    loss_pi=None,
    loss_ho=dict(source='depth'))


def depth_model(width):
    norm = dict(type='BN', requires_grad=True)
    return dict(
        type='DepthEstimator',
        data_preprocessor=dict(
            type='SegDataPreProcessor', size=(32, 32), seg_pad_val=0,
            mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True),
        backbone=dict(
            type='ResNetV1c', depth=18, stem_channels=width,
            base_channels=width, norm_cfg=norm),
        decode_head=dict(
            type='mmselfkd.DepthHead',
            in_channels=[width, 2 * width, 4 * width, 8 * width],
            in_index=[0, 1, 2, 3], channels=2 * width, min_depth=0.5,
            max_depth=12., norm_cfg=norm),
        train_cfg=dict(), test_cfg=dict(mode='whole'))


@pytest.fixture
def run(tiny, tmp_path):
    """A run of two iterations on the toy depth maps."""

    def run(name, *hooks):
        pipeline = [
            dict(type='LoadImageFromFile'),
            dict(type='LoadDepthAnnotation', depth_rescale_factor=1e-3),
            dict(type='RandomFlip', prob=0.5), dict(type='PackSegInputs')]
        cfg = tiny.config(tmp_path / name, *hooks)
        cfg.model = depth_model(4)
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            loader.dataset.type = 'mmselfkd.ToyDepthDataset'
            loader.dataset.pipeline = pipeline
        cfg.val_dataloader.dataset.pipeline = pipeline[:2] + pipeline[3:]
        cfg.val_evaluator = dict(type='DepthMetric')
        return tiny.build(cfg)

    return run


def distilled(**losses):
    return dict(
        type='mmselfkd.SKDHook',
        teacher=dict(
            config=dict(model=depth_model(8), default_scope='mmseg'),
            checkpoint='random'),
        losses={**LOSSES, **losses})


def test_structured_distillation_of_depth(run, tmp_path):
    runner = run('skd', distilled())
    runner.train()
    scalars = runner.message_hub.log_scalars
    silog, pairwise, holistic, total = (
        scalars[f'train/{key}'].current() for key in (
            'decode.loss_silog', 'distill.loss_pa', 'distill.loss_ho',
            'loss'))
    assert pairwise > 0 and holistic != 0 and math.isfinite(holistic)
    assert total == pytest.approx(silog + pairwise + holistic, rel=1e-5)
    assert 'train/distill.loss_pi' not in scalars

    saved = torch.load(tmp_path / 'skd' / 'iter_2.pth', weights_only=False)
    plain = MODELS.build(ConfigDict(depth_model(4)))
    assert list(saved['state_dict']) == list(plain.state_dict())
    plain.load_state_dict(saved['state_dict'], strict=True)


def test_discriminator_takes_the_teachers_depth_as_real(run, monkeypatch):
    original, seen = HolisticLoss.discriminator_loss, []

    def watched(self, student, teacher, *, image=None, **options):
        with torch.no_grad():
            depth = teacher_model(runner)(image, mode='tensor')
        seen.append((student, teacher, image, depth))
        return original(self, student, teacher, image=image, **options)

    monkeypatch.setattr(HolisticLoss, 'discriminator_loss', watched)
    runner = run('real', distilled())
    runner.train()
    assert len(seen) == 2
    for student, real, image, depth in seen:
        assert student.shape == real.shape == (2, 1, 8, 8)
        assert image.shape == (2, 3, 32, 32)  # conditional
        assert torch.allclose(real, depth, atol=1e-5)
        assert not torch.allclose(student, depth, atol=1e-2)
        assert (real > 0.5).all() and (real < 12).all()


def test_prediction_is_the_plain_models(run, tmp_path):
    runner = run('with', distilled())
    runner.train()
    with_hook = runner.val()
    plain = run('without')
    plain.load_checkpoint(str(tmp_path / 'with' / 'iter_2.pth'),
                          strict=True)
    assert plain.val() == with_hook
    sample = next(iter(plain.val_dataloader))
    ours, theirs = (
        model.eval().test_step(sample)[0].pred_depth_map.data
        for model in (runner.model, plain.model))
    assert torch.equal(ours, theirs)
