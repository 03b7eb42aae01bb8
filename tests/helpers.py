"""What tests share: runs, what they log, spies, and what must be left."""
import torch
from mmengine.hooks import Hook
from mmengine.registry import MODELS
from tiny_runs import build
from torch import nn

from mmselfkd import DistillHook
from mmselfkd.distillation import ENTRY
from mmselfkd.hooks.checkpoint import StateHook

KD = dict(type='KDLoss', source='logits')
NFD = dict(type='NFDLoss', source='features')
# options of a run in which nothing is drawn while it trains
NO_DROPOUT = {'model.decode_head.dropout_ratio': 0.,
              'model.auxiliary_head.dropout_ratio': 0.}


def pair(student, teacher):
    """Other sources in the student than in the teacher."""
    return dict(student=student, teacher=teacher)


# -- runs ---------------------------------------------------------------------


class At(Hook):
    """Calls a function at a stage: ``At(before_train=look)``.

    A function gets what the stage gets, the Runner first and the rest by
    name.
    """

    def __init__(self, priority='VERY_LOW', **stages):
        self.priority = priority
        for name, look in stages.items():
            setattr(self, name, look)


class Logs(Hook):
    """What the iterations logged, and what ``look(runner)`` saw after each.

    Attributes:
        entries (list[dict]): Numbers by key.
        seen (list): What ``look`` returned.
    """

    priority = 'VERY_LOW'

    def __init__(self, look=None):
        self.look, self.entries, self.seen = look, [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None,
                         outputs=None):
        self.entries.append(
            {name: float(value.detach()) for name, value in outputs.items()})
        if self.look is not None:
            self.seen.append(self.look(runner))


def train(cfg, *hooks, look=None):
    """Run a config; returns the Runner and its :class:`Logs`.

    Args:
        cfg (Config): Of a run, as ``tiny_runs.config`` gives it.
        hooks (Hook): Registered before the run.
        look (Callable, optional): Of the Logs.
    """
    runner, logs = build(cfg), Logs(look)
    for hook in (*hooks, logs):
        runner.register_hook(hook)
    runner.train()
    return runner, logs


def keep_order(cfg):
    """The same samples in the same order, started anew or resumed."""
    pipeline = cfg.train_dataloader.dataset.pipeline
    pipeline[:] = [step for step in pipeline if step['type'] != 'RandomFlip']
    cfg.train_dataloader.sampler.shuffle = False


def record(cfg, views=2):
    """Let the samples of a run come in recorded views."""
    loader = cfg.train_dataloader
    loader.dataset = dict(
        type='mmselfkd.FixedViews', views=views, dataset=loader.dataset)
    loader.sampler = dict(type='mmselfkd.ViewSampler', sampler=loader.sampler)
    return cfg


def interrupt(runner, iteration):
    """Train until so many iterations are done."""
    loop = runner.train_loop
    run_iter = loop.run_iter

    def run_until(batch):
        if runner.iter == iteration:
            raise KeyboardInterrupt
        run_iter(batch)

    loop.run_iter = run_until
    try:
        runner.train()
    except KeyboardInterrupt:
        return
    raise AssertionError(f'iteration {iteration} was not reached')


def distillation(runner):
    """The DistillationRun that is under way."""
    run, = (hook.run for hook in runner.hooks
            if isinstance(hook, DistillHook) and hook.run is not None)
    return run


def teacher_model(runner, name='teacher'):
    """The model of a teacher of the run that is under way."""
    return distillation(runner).teachers[name].model


# -- spies --------------------------------------------------------------------


class Spy(nn.Module):
    """A user's own loss; ``Spy.calls`` has the maps that it was given.

    Tests get it as the fixture ``spy``, which registers it.
    """

    channels = 'any'
    calls = []

    def forward(self, student, teacher):
        Spy.calls.append((student, teacher))
        return student.float().square().mean()


class LabelSpy(nn.Module):
    """The same with the labels, for which its signature asks."""

    channels = 'any'

    def forward(self, student, teacher, label):
        Spy.calls.append((student, teacher, label))
        return student.float().square().mean()


# -- what is left -------------------------------------------------------------


def load(work_dir, iteration):
    """A saved checkpoint."""
    return torch.load(work_dir / f'iter_{iteration}.pth', weights_only=False)


def copied(state):
    """A state dict that training does not change."""
    return {name: value.detach().clone() for name, value in state.items()}


def assert_equal(first, second, path=''):
    """Nested dicts, lists and tensors, bit for bit."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            assert_equal(first[key], second[key], f'{path}/{key}')
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), path
        for i, (a, b) in enumerate(zip(first, second)):
            assert_equal(a, b, f'{path}/{i}')
    else:
        assert first == second, path


def assert_stock(checkpoint, model):
    """A checkpoint holds the plain model and no more; returns that."""
    plain = MODELS.build(dict(dict(_scope_='mmseg'), **model))
    assert list(checkpoint['state_dict']) == list(plain.state_dict())
    plain.load_state_dict(checkpoint['state_dict'], strict=True)
    return plain


def assert_untouched(model):
    """No torch hook and no module of a distillation is in a model."""
    for name, module in model.named_modules():
        assert not module._forward_hooks, name
        assert not module._forward_pre_hooks, name
    assert not hasattr(model, ENTRY)


def assert_clean(runner):
    """Nothing of a distillation is left on a Runner and its model."""
    assert_untouched(runner.model)
    for hook in runner.hooks:
        assert not isinstance(hook, StateHook)
        assert not isinstance(hook, DistillHook) or hook.run is None
        assert isinstance(hook, At) or 'before_run' not in vars(hook)
    for owner in (runner, runner.train_loop):
        methods = {name for name in vars(owner)
                   if callable(getattr(type(owner), name, None))}
        assert not methods
