"""ViewSampler: in the next epoch the next view, in the other's order."""
import itertools

import pytest
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dataset import sampler as samplers
from mmengine.runner import Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch.utils.data import Dataset

from mmselfkd.datasets import FixedViews, ViewSampler, view_sampler
from mmselfkd.errors import ConfigError

N, VIEWS = 5, 3


class Numbers(Dataset):
    """Upright and level images."""

    def __len__(self):
        return N

    def get_data_info(self, index):
        return dict(width=1 + index % 2, height=1.5)

    def __getitem__(self, index):
        raise AssertionError('nothing is loaded')


class NoLoading(FixedViews):
    """The indices themselves."""

    def __getitem__(self, index):
        return index


def sampler(kind, monkeypatch=None, rank=0, ranks=1, **kwargs):
    if monkeypatch:
        for module in samplers, view_sampler:
            monkeypatch.setattr(
                module, 'get_dist_info', lambda: (rank, ranks))
    return ViewSampler(NoLoading(Numbers(), VIEWS),
                       dict(dict(type=kind, shuffle=True), **kwargs), seed=7)


def test_epochs_go_through_the_views():
    ours = sampler('DefaultSampler')
    theirs = DefaultSampler(Numbers(), shuffle=True, seed=7)
    for epoch in range(2 * VIEWS):
        for one in ours, theirs:
            one.set_epoch(epoch)
        assert list(ours) == [i + N * (epoch % VIEWS) for i in theirs]
    assert len(ours) == len(theirs) == N


@pytest.mark.parametrize('ranks', [1, 2, 3])
def test_a_stream_without_an_end(monkeypatch, ranks):
    """All ranks together have each sample in each view once in n * k."""
    streams = [list(itertools.islice(
        sampler('InfiniteSampler', monkeypatch, rank, ranks), 12 * N))
        for rank in range(ranks)]
    merged = [index for several in zip(*streams) for index in several]
    plain = itertools.islice(
        InfiniteSampler(Numbers(), seed=7)._infinite_indices(), len(merged))
    assert merged == [i + N * (place // N % VIEWS)
                      for place, i in enumerate(plain)]
    assert sorted(merged[:N * VIEWS]) == list(range(N * VIEWS))


@pytest.mark.parametrize('ranks', [1, 2])
def test_skipping_goes_on_there(monkeypatch, ranks):
    def stream():
        return sampler('InfiniteSampler', monkeypatch, 0, ranks)

    whole = list(itertools.islice(stream(), 40))
    skipped = stream()
    skipped.skip(17)
    assert list(itertools.islice(skipped, 23)) == whole[17:]


def loader(kind, **kwargs):
    return Runner.build_dataloader(dict(
        dict(batch_size=2, num_workers=0,
             sampler=dict(type='mmselfkd.ViewSampler',
                          sampler=dict(type=kind, shuffle=True)),
             dataset=NoLoading(Numbers(), VIEWS),
             collate_fn=list), **kwargs), seed=7)


@pytest.mark.parametrize('kind', ['InfiniteSampler', 'DefaultSampler'])
def test_mmengine_resumes_in_the_middle(monkeypatch, kind):
    """By the fast way where the other sampler has it; batches of 2 of 5."""
    monkeypatch.setattr('time.sleep', lambda seconds: None)
    whole = _InfiniteDataloaderIterator(loader(kind))
    batches = [next(whole) for _ in range(20)]
    resumed = _InfiniteDataloaderIterator(loader(kind))
    assert hasattr(resumed._dataloader.sampler, 'skip') == (
        kind == 'InfiniteSampler')
    resumed.skip_iter(11)
    assert [next(resumed) for _ in range(9)] == batches[11:]
    assert {i // N for batch in batches for i in batch} == set(range(VIEWS))


@pytest.mark.parametrize('kind', ['InfiniteSampler', 'DefaultSampler'])
def test_under_batches_of_one_aspect_ratio(kind):
    grouped = loader(kind, batch_sampler=dict(
        type='mmdet.AspectRatioBatchSampler'))
    assert type(grouped.batch_sampler) is AspectRatioBatchSampler
    views = set()
    if kind == 'InfiniteSampler':
        for batch in itertools.islice(grouped, 3 * VIEWS):
            views |= {i // N for i in batch}
            assert len({i % N % 2 for i in batch}) == 1
    else:
        for epoch in range(VIEWS):
            grouped.batch_sampler.sampler.set_epoch(epoch)
            views |= {i // N for batch in grouped for i in batch}
    assert views == set(range(VIEWS))


def test_refuses_a_data_set_without_views():
    with pytest.raises(ConfigError, match='is a Numbers and has no views; '
                       "wrap it, dataset=dict.type='mmselfkd.FixedViews'"):
        ViewSampler(Numbers(), dict(type='InfiniteSampler'))
