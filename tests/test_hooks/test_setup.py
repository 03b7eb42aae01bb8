"""What a run is set up with: copies of the data, and of one image two."""
import threading

import pytest
import tiny_detectors
import tiny_runs
from helpers import NFD, At, train
from mmengine.registry import DATASETS, DefaultScope

from mmselfkd.hooks.setup import _copy_of, _datasets

LISTS = ('data_list', 'data_bytes', 'data_address')


def config(tmp_path, **changes):
    return tiny_runs.config(tmp_path, dict(
        type='mmselfkd.DistillHook', teacher=tiny_runs.teacher(),
        losses=dict(loss_nfd=NFD)), **changes)


def built(cfg, wrap):
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return DATASETS.build(wrap(cfg.train_dataloader.dataset.to_dict()))


@pytest.mark.parametrize('serialize', [True, False])
@pytest.mark.parametrize('wrap', [
    lambda one: one, lambda one: dict(
        type='ConcatDataset', datasets=[one, dict(
            type='RepeatDataset', dataset=one, times=2)])],
    ids=['alone', 'wrapped'])
def test_a_copy_of_the_data_shares_what_is_large(tmp_path, wrap, serialize):
    """The lists of samples, and no transform, which may have a memory."""
    cfg = tiny_detectors.config(tmp_path, 'fcos')
    cfg.train_dataloader.dataset.serialize_data = serialize
    dataset = built(cfg, wrap)
    pairs = list(zip(_datasets(dataset), _datasets(_copy_of(dataset, None))))
    innermost = [pair for pair in pairs if hasattr(pair[0], 'pipeline')]
    assert len(innermost) == (1 if len(pairs) == 1 else 2)
    for one, other in pairs:
        assert one is not other
    for one, other in innermost:
        shared = [name for name in LISTS if hasattr(one, name)]
        assert shared
        for name in shared:
            assert getattr(one, name) is getattr(other, name), name
        for first, second in zip(
                one.pipeline.transforms, other.pipeline.transforms):
            assert first is not second
        assert other[0]['inputs'].dim() == 3  # it works


def test_data_that_cannot_be_copied_are_used_themselves(
        tmp_path, monkeypatch):
    """Such as those that hold a lock or an open file."""
    said = []

    def hold_a_lock(runner):
        runner.train_dataloader.dataset.lock = threading.Lock()
        monkeypatch.setattr(runner.logger, 'warning', said.append)

    _, logs = train(config(tmp_path), At('VERY_HIGH', before_run=hold_a_lock))
    assert len(logs.entries) == 2
    message, = (text for text in said if 'cannot be copied' in text)
    assert message.startswith('ToySegDataset') and 'lock' in message


def test_one_image_is_enough(tmp_path):
    """The rehearsal takes two samples, of one image twice that one."""
    _, logs = train(config(
        tmp_path, **{'train_dataloader.dataset.length': 1}))
    assert logs.entries[-1]['distill.loss_nfd'] > 0
