"""The discriminator's turn: its own optimizer, in proportion to the lr."""
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import At, distillation
from helpers import train as train_config

from mmselfkd.distillation import discriminators
from mmselfkd.distillation.run import critic_key
from mmselfkd.losses import HolisticLoss

HO = dict(type='HolisticLoss', source='logits', loss_weight=0.1,
          optimizer=dict(type='SGD', lr=0.1))


class Watch:
    """Its weights before each iteration, the learning rates after."""

    def __init__(self):
        self.weights, self.lrs, self.losses = [], [], []
        self.hook = At(before_train_iter=self.before,
                       after_train_iter=self.after)

    def before(self, runner, **_):
        self.trainer, = distillation(runner).discriminators.values()
        *_, self.said = distillation(runner).describe()
        score = self.trainer.losses[0].discriminator.score
        self.weights.append(score.weight.detach().clone())

    def after(self, runner, **_):
        self.lrs.append((
            self.trainer.optimizer.param_groups[0]['lr'],
            runner.optim_wrapper.param_groups[0]['lr']))
        self.losses.append(
            runner.message_hub.get_scalar('train/distill.critic.ho').current())


def train(tiny, tmp_path, loss=HO, **changes):
    watch = Watch()
    runner, _ = train_config(tiny.config(
        tmp_path, dict(type='mmselfkd.DistillHook', teacher=tiny.teacher(),
                       losses=dict(loss_ho=loss)), iters=4, **changes),
        watch.hook)
    return runner, watch


@pytest.mark.parametrize('mode', ['hinge', 'wgan-gp'])
@pytest.mark.parametrize('conditional', [True, False])
def test_it_learns_apart_from_the_student(tiny, tmp_path, mode, conditional):
    runner, watch = train(tiny, tmp_path, dict(
        HO, mode=mode, conditional=conditional))
    assert not torch.equal(watch.weights[0], watch.weights[1])
    mine = {id(p) for p in watch.trainer.losses.parameters()}
    student = {id(p) for g in runner.optim_wrapper.param_groups
               for p in g['params']}
    assert not mine & student
    assert not any('discriminator' in name
                   for name, _ in runner.model.named_parameters())


@pytest.mark.parametrize('mode', ['hinge', 'wgan-gp'])
def test_it_calls_the_teacher_real(tiny, tmp_path, mode):
    """Turns on one batch raise the teacher's score above the student's.

    The student's term, minus the mean score of its maps, draws it there.
    """
    seen = []

    def score(one, maps, image):
        with torch.no_grad():
            return one.discriminator(maps, image).mean()

    def look(runner, **_):
        trainer, = distillation(runner).discriminators.values()
        one, batch = trainer.losses[0], trainer._seen[0]
        _, ((s, t), ), image = batch
        for _ in range(20):
            seen.append(score(one, t, image) - score(one, s, image))
            trainer._seen = [batch]
            trainer.step(1.)
        torch.testing.assert_close(
            one(s, t, image=image), -score(one, s, image))

    train_config(tiny.config(
        tmp_path, dict(type='mmselfkd.DistillHook', teacher=tiny.teacher(),
                       losses=dict(loss_ho=dict(
                           HO, mode=mode, optimizer=dict(
                               type='Adam', lr=1e-3)))), iters=1),
        At('VERY_HIGH', after_train_iter=look))
    assert seen[-1] > seen[0] + 0.01 and seen[-1] > 0, seen


def test_learning_rate_follows_the_students_schedule(tiny, tmp_path):
    _, watch = train(tiny, tmp_path)
    # the student's lr as it was in the iteration: PolyLR from 0.01
    for (own, _), student in zip(watch.lrs, [0.01, *(
            lr for _, lr in watch.lrs)]):
        assert own == pytest.approx(10 * student, rel=1e-6)
    assert watch.lrs[3][0] < 0.5 * watch.lrs[0][0]


def test_its_start_is_that_of_the_first_rank(monkeypatch):
    """Also where each rank draws numbers of its own (diff_rank_seed)."""
    losses = torch.nn.ModuleList([HolisticLoss(), HolisticLoss()])
    for loss in losses:
        loss.build(*torch.rand(2, 2, 3, 8, 8), torch.rand(2, 3, 16, 16))
    sent = []
    monkeypatch.setattr(
        discriminators, 'broadcast',
        lambda tensor, src: sent.append((tensor.data_ptr(), src)))
    discriminators.DiscriminatorTrainer(SimpleNamespace(
        level_losses=losses, loss=losses[0], key='key'))
    state = losses.state_dict().values()
    assert sent == [(tensor.data_ptr(), 0) for tensor in state] != []


def test_no_turn_while_the_weight_is_zero(tiny, tmp_path):
    _, watch = train(tiny, tmp_path, dict(
        HO, schedule=dict(type='Stop', end=1)))
    assert not torch.equal(watch.weights[0], watch.weights[1])
    assert torch.equal(watch.weights[1], watch.weights[3])


def test_accumulated_gradients_change_no_turn(tiny, tmp_path):
    """A step for every batch seen, as EMAHook counts too."""
    _, watch = train(tiny, tmp_path,
                     **{'optim_wrapper.accumulative_counts': 2})
    for before, after in zip(watch.weights, watch.weights[1:]):
        assert not torch.equal(before, after)


def test_a_runaway_gradient_does_not_reach_the_weights(tiny, tmp_path):
    """Clipped to a norm of 10; without momentum and decay that bounds it."""
    loss = dict(HO, mode='wgan-gp', gradient_penalty=1e12,
                optimizer=dict(type='SGD', lr=1e-3))
    _, watch = train(tiny, tmp_path, loss)
    for before, after in zip(watch.weights, watch.weights[1:]):
        change = (after - before).norm()
        assert torch.isfinite(change) and change <= 1.01e-2


def test_its_loss_is_logged_beside_the_students(tiny, tmp_path, monkeypatch):
    values = []

    def discriminator_loss(self, *args, **kwargs):
        values.append(original(self, *args, **kwargs))
        return values[-1]

    original = HolisticLoss.discriminator_loss
    monkeypatch.setattr(
        HolisticLoss, 'discriminator_loss', discriminator_loss)
    runner, watch = train(tiny, tmp_path)
    assert watch.losses == [value.item() for value in values] != []
    logged, = Path(runner.log_dir).glob('vis_data/scalars.json')
    lines = [json.loads(line) for line in logged.read_text().splitlines()]
    assert any('distill.critic.ho' in line for line in lines)


@pytest.mark.parametrize('name, key', [
    ('loss_ho', 'distill.critic.ho'), ('loss', 'distill.critic'),
    ('ho.loss', 'distill.critic.ho')])
def test_no_key_of_its_loss_is_summed(name, key):
    assert critic_key(name) == key


def test_the_start_says_where_it_is_larger_than_the_student(tiny, tmp_path):
    for width, said in ((64, True), (2, False)):
        _, watch = train(tiny, tmp_path / str(width), dict(HO, width=width))
        assert ('more than the student' in watch.said) is said
