"""One short run on a GPU; the other tests use one too where there is one."""
import pytest
import torch
from helpers import NFD, NO_DROPOUT, distillation, load
from helpers import train as train_config

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason='needs a GPU')


def where(runner):
    """The devices on which everything lies."""
    run = distillation(runner)
    modules = [runner.model,
               *(teacher.model for teacher in run.teachers.values()
                 if hasattr(teacher, 'model')),
               *(one.losses for one in run.discriminators.values())]
    return {tensor.device.type for module in modules
            for tensor in module.state_dict().values()}


def train(tiny, tmp_path, wrapper, options=None, **changes):
    """Its log, and the devices on which something lay."""
    def pair(source, name):
        return dict(student=source, teacher=f'{name}:{source}')

    hook = dict(
        type='mmselfkd.DistillHook',
        teacher=dict(
            big=tiny.teacher(mean=[100., 110., 120.]) | (options or {}),
            average=dict(type='EMATeacher'),
            refined=dict(type='SelfTeacher')),
        losses=dict(
            loss_kd=dict(type='KDLoss', source=pair('logits', 'average')),
            loss_nfd=dict(NFD, source=pair('features', 'big')),
            loss_ho=dict(type='HolisticLoss', source=pair('logits', 'big')),
            loss_at=dict(type='ATLoss', source=dict(
                student='backbone', teacher='refined:neck'))))
    cfg = tiny.config(tmp_path, hook, dict(type='EMAHook'), **changes)
    cfg.optim_wrapper.update(wrapper)
    _, logs = train_config(cfg, look=where)
    return logs.entries, set.union(*logs.seen)


def on_gpu(value):
    """The tensors of nested dicts and lists that are on a GPU."""
    if isinstance(value, torch.Tensor):
        return [value] if value.is_cuda else []
    if isinstance(value, dict):
        value = value.values()
    return [x for item in value for x in on_gpu(item)] if isinstance(
        value, (list, tuple, type({}.values()))) else []


@pytest.mark.parametrize('wrapper', [
    {}, dict(type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic'),
    dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale='dynamic')])
def test_trains_saves_and_resumes(tiny, tmp_path, wrapper):
    """With torch's own scaler; what is saved is on the CPU and stock."""
    logs, devices = train(tiny, tmp_path, wrapper)
    assert devices == {'cuda'}
    saved = load(tmp_path, 2)
    entry = saved['mmselfkd']  # mmengine's EMAHook leaves averages there
    for name in ('optimizer', 'discriminators', 'teachers'):
        assert entry[name] and not on_gpu(entry[name]), name
    assert not [name for name in saved['state_dict'] if 'mmselfkd' in name]
    assert ('loss_scaler' in saved['optimizer']) == bool(wrapper)
    again, _ = train(tiny, tmp_path, wrapper, iters=4, resume=True)
    assert len(again) == 2
    for log in logs + again:
        for name, value in log.items():
            assert value == value and abs(value) < 1e6, name


def test_as_on_the_cpu(tiny, tmp_path, monkeypatch):
    """The first iteration, of the same weights and images.

    Not to the last bit: convolutions on a GPU may round to ten bits.
    """
    start = tmp_path / 'start.pth'
    student = tiny.build(tiny.config(tmp_path)).model
    torch.save(dict(state_dict=student.state_dict()), start)
    seen = {}
    for device in ('cuda', 'cpu'):
        if device == 'cpu':
            for name in ('runner.runner', 'device', 'device.utils'):
                monkeypatch.setattr(
                    f'mmengine.{name}.get_device', lambda: 'cpu')
        (seen[device], ), devices = train(
            tiny, tmp_path / device, {}, iters=1, load_from=str(start),
            **NO_DROPOUT)
        assert devices == {device}
    assert seen['cuda'].keys() == seen['cpu'].keys()
    for name, value in seen['cpu'].items():
        if 'loss' in name:
            assert seen['cuda'][name] == pytest.approx(
                value, rel=0.05, abs=0.01), name


@pytest.mark.parametrize('options', [
    dict(side_stream=True), dict(compile=True),
    dict(compile=True, channels_last=True, side_stream=True)])
def test_however_the_teacher_runs(tiny, tmp_path, options):
    """The same training, but for the order of sums."""
    expected, _ = train(tiny, tmp_path / 'a', {}, **NO_DROPOUT)
    logs, _ = train(tiny, tmp_path / 'b', {}, options, **NO_DROPOUT)
    assert len(expected) == len(logs)
    for log, other in zip(expected, logs):
        for name, value in log.items():
            if 'loss' in name:
                assert other[name] == pytest.approx(
                    value, rel=0.05, abs=0.01), name
