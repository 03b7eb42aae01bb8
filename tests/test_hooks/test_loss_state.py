"""What a loss asks of the run: memory, number of classes, images."""
import pytest
import tiny_runs
import torch
from helpers import At, distillation, load, train
from test_resume import stop_and_go

from mmselfkd import ConfigError
from mmselfkd.losses import DistillationLoss
from mmselfkd.registry import MODELS


class Counting(DistillationLoss):
    """Its buffer has the number of its calls in training."""

    channels = 'any'

    def __init__(self):
        super().__init__()
        self.register_buffer('calls', torch.zeros(()))

    def forward(self, student, teacher):
        if self.training:
            self.calls += 1
        return student.float().square().mean() * self.num_classes


@pytest.fixture(autouse=True)
def counting():
    MODELS.register_module(module=Counting)
    yield
    MODELS.module_dict.pop('Counting')


def config(work_dir, **options):
    return tiny_runs.config(work_dir, dict(
        type='mmselfkd.DistillHook', teacher=tiny_runs.teacher(),
        losses=dict(loss_count=dict(type='Counting', source='features'))),
        **options)


def test_rehearsal_is_not_remembered_and_training_is(tmp_path):
    seen = []

    def look(runner):
        term, = distillation(runner).terms
        loss, = term.level_losses
        assert loss.num_classes == 7  # of the head
        seen.append(loss.calls.item())

    train(config(tmp_path), At(before_train=look, after_train=look))
    assert seen == [0, 2]
    saved = load(tmp_path, 2)['mmselfkd']['modules']
    assert saved == {'loss_count.losses.0.calls': 2}


def test_what_it_remembers_is_resumed(tmp_path):
    stop_and_go(config(tmp_path, iters=4), tmp_path)
    assert load(tmp_path / 'resumed', 4)['mmselfkd']['modules'] == {
        'loss_count.losses.0.calls': 4}


def cirkd(tmp_path, loader=(), **losses):
    hook = dict(type='mmselfkd.CIRKDHook', teacher=tiny_runs.teacher(),
                losses=losses)
    cfg = tiny_runs.config(tmp_path, hook, iters=1)
    cfg.train_dataloader.update(loader, batch_size=1)
    return cfg


# of a loader with a batch sampler torch does not say the size
@pytest.mark.parametrize('loader', [{}, dict(batch_sampler=dict(
    type='TorchBatches', drop_last=False))], ids=['plain', 'batch_sampler'])
def test_a_batch_of_one_is_refused_where_images_are_compared(
        tmp_path, loader):
    with pytest.raises(ConfigError) as error:
        train(cirkd(tmp_path, loader))
    for part in ('train_dataloader.batch_size = 1',
                 'CIRKDHook.losses.loss_minibatch', 'at least 2'):
        assert part in str(error.value)
    # the memory has others
    _, logs = train(cirkd(tmp_path, loader, loss_minibatch=None))
    assert logs.entries[0]['distill.loss_memory'] > 0
