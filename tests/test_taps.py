"""Taps: where they look, what they give, and what they say when they fail."""
from contextlib import ExitStack

import pytest
import torch
from helpers import assert_untouched
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmselfkd.errors import ConfigError
from mmselfkd.taps import Tap, reach


class BaseDecodeHead(nn.Module):
    """Like mmseg's: dropout, then ``conv_seg``."""

    out_channels = 3

    def __init__(self, dropout=0.5):
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 1)
        self.dropout = nn.Dropout2d(dropout) if dropout else None
        self.conv_seg = nn.Conv2d(6, 3, 1)

    def forward(self, levels):
        x = self.conv(levels[-1])
        if self.dropout is not None:
            x = self.dropout(x)
        return self.conv_seg(x)


class Model(nn.Module):

    def __init__(self, dropout=0.5, inplace=False, reuse=1, ckpt=False):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU(inplace=inplace)
        self.backbone = Levels()
        self.decode_head = BaseDecodeHead(dropout)
        self.shared = nn.Conv2d(4, 2, 1)
        self.reuse, self.ckpt = reuse, ckpt

    def forward(self, x):
        x = self.relu(self.stem(x))
        levels = self.backbone(x)
        for _ in range(self.reuse):
            self.shared(x)
        if self.ckpt:
            x = checkpoint(self.shared, x, use_reentrant=False)
            return x.sum()
        # mmseg calls forward, not the module
        return self.decode_head.forward(levels)


class Levels(nn.Module):

    def forward(self, x):
        return x, nn.functional.avg_pool2d(x, 2)


def tapped(model, source, key='key', resources=None):
    return Tap(model, source, key, resources or ExitStack())


def run(model, source):
    tap = tapped(model, source, 'losses.loss_x.source')
    tap.open()
    model(torch.rand(2, 3, 8, 8))
    tap.close()
    return tap


def test_path_gives_the_output_of_the_module():
    model = Model()
    seen = []
    model.stem.register_forward_hook(lambda m, a, out: seen.append(out))
    (level, ) = run(model, 'stem').take()
    assert level is seen[0]


def test_tuple_is_all_levels_and_an_index_picks_one():
    model = Model()
    levels = run(model, 'backbone').take()
    assert [tuple(x.shape) for x in levels] == [(2, 4, 8, 8), (2, 4, 4, 4)]
    assert run(model, 'backbone[1]').take()[0].shape[-1] == 4
    assert run(model, 'backbone[-2]').take()[0].shape[-1] == 8


def test_several_runs_are_levels_in_their_order():
    levels = run(Model(reuse=3), 'shared').take()
    assert len(levels) == 3
    assert len(run(Model(reuse=3), 'shared[2]').take()) == 1


def test_logits_and_features_stand_around_the_dropout():
    model = Model().train()
    entering, leaving = [], []
    model.decode_head.conv.register_forward_hook(
        lambda m, a, out: entering.append(out))
    model.decode_head.conv_seg.register_forward_hook(
        lambda m, a, out: leaving.append(out))
    (features, ) = run(model, 'features').take()
    assert features is entering[0]
    (logits, ) = run(model, 'logits').take()
    assert logits is leaving[1]


def test_features_of_a_head_without_dropout():
    model = Model(dropout=0)
    entering = []
    model.decode_head.conv.register_forward_hook(
        lambda m, a, out: entering.append(out))
    assert run(model, 'features').take()[0] is entering[0]


def test_cascade_means_the_last_head():
    model = Model()
    model.decode_head = nn.ModuleList([BaseDecodeHead(), BaseDecodeHead()])
    tap = tapped(model, 'logits')
    tap.open()
    model.decode_head[0].forward([torch.rand(1, 4, 2, 2)])
    assert not tap.runs
    model.decode_head[1].forward([torch.rand(1, 4, 2, 2)])
    assert len(tap.runs) == 1


def test_in_place_change_is_noticed_and_a_clone_survives_it():
    model = Model(inplace=True)
    with torch.no_grad():
        model.stem.weight.fill_(-1.)
        model.stem.bias.fill_(0.)
    tap = run(model, 'stem')
    assert tap.take()[0].min() == 0  # what a naive recorder would give
    assert tap.changed
    tap.clone = True
    tap.open()
    model(torch.rand(2, 3, 8, 8) + 0.1)
    assert tap.take()[0].max() < 0
    assert not tap.changed
    tap = run(Model(inplace=False), 'stem')
    tap.take()
    assert not tap.changed


def test_closed_tap_ignores_what_checkpointing_runs_again():
    model = Model(ckpt=True, reuse=0)
    tap = tapped(model, 'shared')
    tap.open()
    loss = model(torch.rand(2, 3, 8, 8))
    tap.close()
    (level, ) = tap.take()
    assert level.requires_grad
    loss.backward()
    assert tap.runs == []


def test_gradient_flows_through_a_tap():
    model = Model()
    run(model, 'stem').take()[0].sum().backward()
    assert model.stem.weight.grad.abs().sum() > 0


def test_gradient_flows_through_a_clone():
    model = Model(inplace=True)
    tap = tapped(model, 'stem')
    tap.clone = True
    tap.open()
    model(torch.rand(2, 3, 8, 8))
    tap.take()[0].sum().backward()
    assert model.stem.weight.grad.abs().sum() > 0


def test_what_a_failed_pass_left_is_forgotten():
    model = Model()
    tap = tapped(model, 'stem')
    for value in (0., 1.):  # the first pass fails behind the tap
        tap.open()
        model.stem(torch.full((1, 3, 2, 2), value))
    level, = tap.take()
    assert torch.equal(level, model.stem(torch.ones(1, 3, 2, 2)))


def test_of_passes_that_fail_the_furthest_is_recorded():
    """Each gets past the tap; one that saw nothing does not count."""
    model, done = Model(), []
    tap = tapped(model, 'stem')

    def failing(times):
        def call():
            done.append(times)
            for _ in range(times):
                model.stem(torch.rand(1, 3, 2, 2))
            raise RuntimeError(f'after {times}')
        return call

    calls = [failing(times) for times in (0, 1, 3, 2)]
    assert reach([tap], calls) == 2
    assert len(tap.take()) == 3
    assert done == [0, 1, 3, 2, 3]
    with pytest.raises(RuntimeError, match='after 0'):
        reach([tap], calls[:1])


def test_where_the_levels_lie_in_the_graph():
    model = Model()
    tap = tapped(model, 'stem')
    tap.keeps_edges = True
    tap.open()
    loss = model(torch.rand(2, 3, 8, 8)).square().sum()
    level, = tap.take()
    edge, = tap.take_edges()
    assert tap.take_edges() == []
    by_edge, = torch.autograd.grad(loss, [edge], retain_graph=True)
    by_level, = torch.autograd.grad(loss, [level])
    assert torch.equal(by_edge, by_level) and by_edge.abs().sum() > 0
    with torch.no_grad():
        tap.open()
        model(torch.rand(2, 3, 8, 8))
        tap.take()
    assert tap.take_edges() == []


@pytest.mark.parametrize('source', ['features', 'logits', 'stem', 'parts'])
def test_closed_resources_leave_no_hook(source):
    model = Model()
    model.parts = nn.ModuleList([nn.Conv2d(3, 1, 1), nn.Conv2d(3, 2, 1)])
    resources = ExitStack()
    tap = tapped(model, source, resources=resources)
    tap.open()
    model(torch.rand(2, 3, 8, 8))
    with pytest.raises(AssertionError):
        assert_untouched(model)
    resources.close()
    assert_untouched(model)
    assert tap.runs == []


@pytest.mark.parametrize('source, says', [
    ('decode_head.conv_sge', "'decode_head.conv_seg'"),
    ('logit', "'logits'"),
    ('backbone[', 'dotted module path'),
    ('', 'dotted module path'),
    (3, 'dotted module path'),
])
def test_unknown_source_names_the_key_the_value_and_the_nearest(source, says):
    with pytest.raises(ConfigError) as error:
        tapped(Model(), source, 'hook.losses.loss_x.source')
    message = str(error.value)
    assert message.startswith(f'hook.losses.loss_x.source = {source!r}')
    assert says in message


@pytest.mark.parametrize('source, says', [
    ('decode_head', 'did not run in the forward pass'),
    ('decode_head', "such as 'decode_head.conv_seg'"),
    ('decode_head', "'logits', 'features', 'pyramid', 'depth'"),
    ('backbone[2]', 'allowed: 0 to 1'),
    ('stem[0]', 'nothing to pick'),
])
def test_source_that_gives_nothing_says_why(source, says):
    with pytest.raises(ConfigError, match='losses.loss_x.source') as error:
        run(Model(), source).take()
    assert says in str(error.value)


def test_output_that_is_no_float_tensor():
    model = Model()
    model.odd = Odd()
    tap = tapped(model, 'odd')
    for value, says in ((torch.arange(3), 'int64'), ('text', 'str'),
                        ((torch.rand(1), None), 'NoneType')):
        tap.open()
        model.odd(value)
        with pytest.raises(ConfigError, match=says):
            tap.take()


class Odd(nn.Module):

    def forward(self, x):
        return x


def test_alias_without_a_classifier_lists_what_there_is():
    model = Model()
    model.decode_head = nn.Sequential(nn.Conv2d(3, 3, 1))
    with pytest.raises(ConfigError, match='conv_seg') as error:
        tapped(model, 'logits')
    assert "['0']" in str(error.value)
    assert 'register_head' in str(error.value)


def test_tokens_and_vectors_become_maps():
    model = Model()
    model.odd = Odd()
    tap = tapped(model, 'odd')
    tokens, vectors = torch.rand(2, 5, 3), torch.rand(7, 4)
    tap.open()
    model.odd((tokens, vectors))
    first, second = tap.take()
    assert torch.equal(first[..., 0], tokens.transpose(1, 2))
    assert torch.equal(second[:, :, 0, 0], vectors)
    assert not tap.place.is_map


def test_maps_with_their_channels_last_become_maps():
    """As the shape of the image tells them; others stay as they are."""
    model = Model()
    model.odd = Odd()
    tap = tapped(model, 'odd')
    last, first = torch.rand(2, 4, 6, 5), torch.rand(2, 5, 4, 6)
    tap.open()
    model.odd((last, first))
    found = tap.take((2, 3, 32, 48))
    assert torch.equal(found[0], last.movedim(-1, 1))
    assert torch.equal(found[1], first)
    assert tap.place.is_map


def test_module_list_gives_its_members_in_order():
    model = Model()
    model.parts = nn.ModuleList([nn.Conv2d(3, 1, 1), nn.Conv2d(3, 2, 1)])
    tap = tapped(model, 'parts')
    tap.open()
    for part in model.parts:
        part(torch.rand(1, 3, 2, 2))
    assert [x.shape[1] for x in tap.take()] == [1, 2]
