import itertools

import pytest
import torch
from mmengine.structures import PixelData
from torch import nn

from mmselfkd.models.bifpn import BiFPN, Fusion
from mmselfkd.registry import MODELS

# sizes of pyramids, finest first
HALVES = [(16, 24), (8, 12), (4, 6)]
ODD = [(33, 17), (17, 9), (9, 5), (5, 3)]
DILATED = [(16, 12), (8, 6), (8, 6), (8, 6)]
QUARTERS = [(16, 32), (4, 8), (1, 2)]
UNEVEN = [(13, 7), (5, 3), (5, 2), (1, 2)]


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator)


def pyramid(channels, sizes, dtype=torch.float32):
    return [random(2, c, *size, seed=i).to(dtype)
            for i, (c, size) in enumerate(zip(channels, sizes))]


def shapes(outs):
    return [tuple(out.shape[1:]) for out in outs]


def shuffled(neck):
    """Every parameter and running statistic away from its initial value."""
    for name, value in sorted(neck.state_dict().items()):
        if name.endswith(('running_var', 'bn.weight', 'weights')):
            value.copy_(torch.rand(value.shape) + 0.5)
        elif value.is_floating_point():
            value.copy_(torch.randn(value.shape) * 0.5)
    return neck.double().eval()


class Naive:
    """The neck once more, from its state alone."""

    def __init__(self, neck, num_layers, num_convs, weighted, last,
                 relu_inputs):
        self.state = neck.state_dict()
        self.num_layers, self.num_convs = num_layers, num_convs
        self.weighted, self.last = weighted, last
        self.relu_inputs = relu_inputs

    def __call__(self, maps):
        maps = [x * (x > 0) if self.relu_inputs else x for x in maps]
        for i in itertools.count():
            if f'extra_convs.{i}.conv.weight' not in self.state:
                break
            maps.append(self.conv(
                maps[-1], f'extra_convs.{i}', stride=2, padding=1))
        for number in range(self.num_layers):
            maps = self.layer(maps, number)
        return maps

    def layer(self, maps, number):
        key, n = f'layers.{number}', len(maps)
        tops = [self.conv(x, f'{key}.laterals.{i}') if number == 0 else x
                for i, x in enumerate(maps)]
        for i in range(n - 2, -1, -1):
            up = self.nearest(tops[i + 1], *tops[i].shape[2:])
            tops[i] = self.fuse(
                [tops[i], self.conv(up, f'{key}.up_convs.{i}')],
                f'{key}.up_nodes.{i}')
        if number == self.num_layers - 1 and self.last == 'top_down':
            return tops
        outs = [tops[0]]
        for i in range(1, n):
            down = outs[-1]
            height, width = tops[i].shape[2:]
            while (down.shape[2:] != (height, width)
                   and -(-down.shape[2] // 2) >= height
                   and -(-down.shape[3] // 2) >= width):
                down = self.pool(down)
            down = self.nearest(down, height, width)
            down = self.conv(down, f'{key}.down_convs.{i - 1}')
            lateral = self.conv(maps[i], f'{key}.second_laterals.{i - 1}')
            terms = [lateral, tops[i], down]
            if i == n - 1:
                terms = [lateral, down]
            outs.append(self.fuse(terms, f'{key}.down_nodes.{i - 1}'))
        return outs

    def conv(self, x, key, **kwargs):
        weight = self.state[f'{key}.conv.weight']
        x = torch.nn.functional.conv2d(x, weight, **kwargs)
        mean, var, scale, shift = (
            self.state[f'{key}.bn.{name}'].view(1, -1, 1, 1)
            for name in ('running_mean', 'running_var', 'weight', 'bias'))
        x = (x - mean) / (var + 1e-5)**0.5 * scale + shift
        return x * (x > 0)

    def fuse(self, maps, key):
        total = 0
        if self.weighted:
            raw = [max(w, 0.) for w in self.state[f'{key}.weights'].tolist()]
            for w, x in zip(raw, maps, strict=True):
                total = total + w / (sum(raw) + 1e-6) * x
        else:
            for x in maps:
                total = total + x
        for i in range(self.num_convs):
            weight = self.state[f'{key}.block.{2 * i}.weight']
            total = torch.cat([
                torch.nn.functional.conv2d(
                    total[:, c:c + 1], weight[c:c + 1], padding=1)
                for c in range(total.shape[1])], dim=1)
            total = self.conv(total, f'{key}.block.{2 * i + 1}')
        return total

    def pool(self, x):
        height, width = x.shape[2:]
        half = -(-height // 2), -(-width // 2)
        top = max((half[0] - 1) * 2 + 3 - height, 0) // 2
        left = max((half[1] - 1) * 2 + 3 - width, 0) // 2
        out = x.new_zeros(*x.shape[:2], *half)
        for i, j in itertools.product(*map(range, half)):
            rows = [r for r in range(2 * i - top, 2 * i - top + 3)
                    if 0 <= r < height]
            columns = [c for c in range(2 * j - left, 2 * j - left + 3)
                       if 0 <= c < width]
            for r, c in itertools.product(rows, columns):
                out[..., i, j] = torch.maximum(out[..., i, j], x[..., r, c])
        return out

    def nearest(self, x, height, width):
        out = x.new_empty(*x.shape[:2], height, width)
        for i, j in itertools.product(range(height), range(width)):
            out[..., i, j] = x[..., i * x.shape[2] // height,
                               j * x.shape[3] // width]
        return out


@pytest.mark.parametrize('sizes', [HALVES, ODD, DILATED, QUARTERS, UNEVEN])
@pytest.mark.parametrize('last', ['bottom_up', 'top_down'])
def test_sizes_stay(sizes, last):
    channels = [2, 4, 6, 8][:len(sizes)]
    outs = BiFPN(channels, num_layers=2, last=last)(pyramid(channels, sizes))
    assert isinstance(outs, tuple)
    assert shapes(outs) == [
        (2 * c, *size) for c, size in zip(channels, sizes)]


def test_channels():
    maps = pyramid([3, 5, 9], HALVES)
    for kwargs, expected in ((dict(), [6, 10, 18]),
                             (dict(width=0.5), [2, 2, 4]),
                             (dict(width=0.1), [1, 1, 1]),
                             (dict(out_channels=4), [4, 4, 4]),
                             (dict(out_channels=(7, 1, 2)), [7, 1, 2])):
        neck = BiFPN([3, 5, 9], **kwargs)
        assert neck.in_channels == [3, 5, 9]
        assert neck.out_channels == expected
        assert [out.shape[1] for out in neck(maps)] == expected


@pytest.mark.parametrize('out_channels, channels', [
    (None, [4, 6, 6, 6]), (5, [5, 5, 5, 5]), ([3, 4, 5, 6], [3, 4, 5, 6])])
def test_extra_levels(out_channels, channels):
    neck = BiFPN([2, 3], out_channels, num_outs=4)
    assert neck.out_channels == channels
    outs = neck(pyramid([2, 3], [(18, 26), (9, 13)]))
    sizes = [(18, 26), (9, 13), (5, 7), (3, 4)]
    assert shapes(outs) == [(c, *size) for c, size in zip(channels, sizes)]


@pytest.mark.parametrize('sizes, kwargs', [
    (HALVES, dict()),
    (ODD, dict(num_convs=1, relu_inputs=False)),
    (DILATED, dict(width=1.5)),
    (QUARTERS, dict(num_layers=2)),
    (UNEVEN, dict(num_layers=2, weighted=False)),
    (ODD, dict(num_layers=3, last='top_down', out_channels=5)),
    (DILATED, dict(last='top_down', weighted=False, num_convs=3)),
    (HALVES, dict(num_layers=2, num_outs=5, out_channels=[3, 4, 5, 6, 7])),
    (HALVES[:2], dict(last='top_down', num_layers=2, num_outs=4))])
def test_computed_again(sizes, kwargs):
    channels = [2, 3, 4, 3][:len(sizes)]
    neck = shuffled(BiFPN(channels, **kwargs))
    naive = Naive(neck, *(kwargs.get(key, default) for key, default in (
        ('num_layers', 1), ('num_convs', 2), ('weighted', True),
        ('last', 'bottom_up'), ('relu_inputs', True))))
    maps = pyramid(channels, sizes, torch.float64)
    with torch.no_grad():
        outs, expected = neck(maps), naive(maps)
    assert len(outs) == len(expected) == kwargs.get('num_outs', len(sizes))
    for out, other in zip(outs, expected):
        assert out.dtype == torch.float64
        assert out.min() >= 0 and out.max() > 0
        torch.testing.assert_close(out, other, rtol=1e-9, atol=1e-9)


def test_negative_parts_of_the_inputs_have_no_effect():
    maps = pyramid([2, 3], HALVES)
    positive = [x.relu() for x in maps]
    for relu_inputs in (True, False):
        neck = BiFPN([2, 3], num_outs=3, relu_inputs=relu_inputs).eval()
        same = map(torch.equal, neck(maps), neck(positive))
        assert all(same) is relu_inputs


def test_shares():
    fusion = Fusion(3, 4, 1, True, dict(type='BN'))
    torch.testing.assert_close(fusion.shares(), torch.full((3, ), 1 / 3))
    fusion.weights.data = torch.tensor([3., -2., 1.])
    torch.testing.assert_close(
        fusion.shares(), torch.tensor([0.75, 0., 0.25]))
    fusion.weights.data = -torch.ones(3)
    assert torch.equal(fusion.shares(), torch.zeros(3))


def test_negative_weight_switches_a_map_off():
    neck = BiFPN([3, 4], last='top_down').eval()
    weights = neck.layers[0].up_nodes[0].weights
    fine, coarse = pyramid([3, 4], HALVES)
    for values, same in (([1., 0.5], False), ([1., -0.5], True)):
        weights.data = torch.tensor(values)
        first, second = (neck([fine, x])[0] for x in (coarse, coarse + 1))
        assert torch.equal(first, second) == same


def test_weights_can_be_left_out():
    def count(**kwargs):
        names = dict(BiFPN([2, 3, 4], **kwargs).named_parameters())
        return sum(name.endswith('.weights') for name in names)

    assert count() == 4 and count(num_layers=2, last='top_down') == 6
    assert count(weighted=False) == 0
    plain, weighted = BiFPN([2, 3, 4], weighted=False), BiFPN([2, 3, 4])
    assert sum(p.numel() for p in weighted.parameters()) == sum(
        p.numel() for p in plain.parameters()) + 2 + 2 + 3 + 2


@pytest.mark.parametrize('num_layers, last, num_outs, weighted', list(
    itertools.product((1, 2, 3), ('bottom_up', 'top_down'), (2, 3, 4),
                      (True, False))))
def test_gradient_reaches_every_parameter(num_layers, last, num_outs,
                                          weighted):
    neck = BiFPN([8, 8], num_layers=num_layers, num_outs=num_outs,
                 weighted=weighted, last=last)
    outs = neck(pyramid([8, 8], [(16, 16), (8, 8)]))
    if last == 'top_down':
        outs = outs[:1]
    sum((out * random(*out.shape, seed=9)).sum() for out in outs).backward()
    for name, parameter in neck.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-6, name
        if name.endswith('.weights'):
            assert (parameter.grad != 0).all(), name


def test_gradient_of_the_inputs():
    neck = shuffled(BiFPN([2, 3], num_outs=3, num_layers=2))
    maps = pyramid([2, 3], [(5, 4), (3, 2)], torch.float64)
    maps = [x[:1].requires_grad_() for x in maps]
    assert torch.autograd.gradcheck(lambda *maps: neck(maps), maps)
    sum(out.sum() for out in neck(maps)).backward()
    assert all(x.grad.abs().max() > 0 for x in maps)


def test_nothing_is_changed_in_place():
    maps = pyramid([2, 3], HALVES)
    before, seen = [x.clone() for x in maps], []
    neck = BiFPN([2, 3], num_outs=3, num_layers=2)
    for module in neck.modules():
        module.register_forward_hook(
            lambda module, args, out: seen.append((out, [
                x.clone() for x in (
                    [out] if isinstance(out, torch.Tensor) else out)])))
    maps_given = list(maps)
    neck(maps_given)
    assert len(maps_given) == 2 and maps_given[0] is maps[0]
    assert all(map(torch.equal, maps, before))
    assert len(seen) > 50
    for out, copies in seen:
        out = [out] if isinstance(out, torch.Tensor) else out
        assert all(map(torch.equal, out, copies))


@pytest.mark.parametrize('norm_cfg, kind', [
    (dict(type='GN', num_groups=2), nn.GroupNorm),
    (dict(type='SyncBN'), nn.SyncBatchNorm),
    (dict(type='BN', eps=0.5), nn.BatchNorm2d)])
def test_norms(norm_cfg, kind):
    neck = BiFPN([2, 4], num_outs=3, norm_cfg=norm_cfg)
    norms = [m for m in neck.modules() if isinstance(
        m, (nn.GroupNorm, nn.modules.batchnorm._BatchNorm))]
    # 1 added level, 3 + 2 laterals, 2 up, 2 down and two in each of 4 nodes
    assert len(norms) == 18
    assert all(isinstance(norm, kind) for norm in norms)
    assert all(norm.eps == norm_cfg.get('eps', 1e-5) for norm in norms)
    if kind is nn.GroupNorm:
        outs = neck(pyramid([2, 4], HALVES))
        assert all(out.isfinite().all() for out in outs)


def test_second_set_of_laterals_alone_in_later_layers():
    layers = BiFPN([2, 3, 4], num_layers=3, last='top_down').layers
    assert [layer.laterals is None for layer in layers] == [
        False, True, True]
    assert len(layers[0].laterals) == 3
    assert [len(layer.second_laterals) for layer in layers[:2]] == [2, 2]
    assert not hasattr(layers[2], 'second_laterals')


def test_init_cfg_is_obeyed():
    neck = BiFPN([2, 3], num_outs=3, init_cfg=dict(
        type='Constant', layer='Conv2d', val=0.25))
    neck.init_weights()
    convs = [m for m in neck.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 26
    assert all((conv.weight == 0.25).all() for conv in convs)
    assert all((node.weights == 1).all() for node in neck.modules()
               if isinstance(node, Fusion))


def test_autocast():
    neck = BiFPN([4, 4, 4], num_outs=4)
    with torch.autocast('cpu', torch.bfloat16):
        outs = neck(pyramid([4, 4, 4], HALVES))
    assert all(out.dtype == torch.bfloat16 for out in outs)
    assert all(out.isfinite().all() for out in outs)
    sum(out.float().sum() for out in outs).backward()
    assert all(p.grad.isfinite().all() for p in neck.parameters())


def test_same_seed_same_result():
    def run():
        torch.manual_seed(5)
        neck = BiFPN([2, 3, 4], num_outs=4, num_layers=2)
        outs = neck(pyramid([2, 3, 4], HALVES))
        sum(out.square().sum() for out in outs).backward()
        return [*outs, *(p.grad for p in neck.parameters())]

    for one, other in zip(run(), run(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize('kwargs, message', [
    (dict(in_channels=[512]),
     r'BiFPN fuses levels: two or more are needed, but got '
     r'in_channels=\[512\]'),
    (dict(in_channels=512), 'in_channels=512'),
    (dict(num_outs=1), r'num_outs must be 2 .* got 1'),
    (dict(num_layers=0), 'num_layers must be an integer of 1 or more, .* 0'),
    (dict(num_convs=0), 'num_convs must be an integer of 1 or more, .* 0'),
    (dict(num_convs=1.5), 'num_convs must be an integer .* 1.5'),
    (dict(relu_inputs=0), 'relu_inputs must be True or False, but got 0'),
    (dict(width=0), 'width must be above 0, but got 0'),
    (dict(weighted=1), 'weighted must be True or False, but got 1'),
    (dict(weighted='no'), "weighted must be True or False, but got 'no'"),
    (dict(weighted=None), 'weighted must be True or False, but got None'),
    (dict(out_channels=0), r'out_channels .* 2 output levels.*\[0, 0\]'),
    (dict(out_channels=[8]), r'out_channels .* 2 output levels.*\[8\]'),
    (dict(out_channels=[8, 8], num_outs=3), '3 output levels'),
    (dict(last='both'), "one of 'bottom_up', 'top_down', but got 'both'")])
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        BiFPN(**dict(dict(in_channels=[2, 3]), **kwargs))


def test_wrong_number_of_maps():
    neck, maps = BiFPN([2, 3]), pyramid([2, 3, 4], HALVES)
    for number in (1, 3):
        with pytest.raises(ValueError, match=f'for 2 maps, .* got {number}'):
            neck(maps[:number])


def test_built_from_config():
    from mmseg.registry import MODELS as MMSEG_MODELS

    neck = MODELS.build(dict(  # whatever scope a test before this one set
        type='BiFPN', _scope_='mmselfkd', in_channels=[2, 3], width=3))
    assert type(neck) is BiFPN and neck.out_channels == [6, 9]
    neck = MMSEG_MODELS.build(
        dict(type='mmselfkd.BiFPN', in_channels=(2, 3), out_channels=4))
    assert type(neck) is BiFPN and neck.out_channels == [4, 4]


def test_neck_of_a_segmentor(tiny):
    from mmengine.registry import MODELS as MMENGINE_MODELS
    from mmseg.structures import SegDataSample

    cfg = tiny.model(4)
    del cfg['auxiliary_head']
    cfg['neck'] = dict(
        type='mmselfkd.BiFPN', in_channels=[4, 8, 16, 32], out_channels=6,
        last='top_down')
    cfg['decode_head'].update(in_channels=6, in_index=0)
    model = MMENGINE_MODELS.build(dict(cfg, _scope_='mmseg'))
    model.init_weights()
    sample = SegDataSample(
        gt_sem_seg=PixelData(data=torch.randint(7, (1, 32, 32))))
    losses = model(
        random(2, 3, 32, 32), [sample, sample.clone()], mode='loss')
    assert losses['decode.loss_ce'].isfinite()
    losses['decode.loss_ce'].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
