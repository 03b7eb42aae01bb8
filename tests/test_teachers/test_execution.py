"""A teacher that is compiled, or runs on a stream beside the student."""
import itertools
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch
from helpers import KD, NFD, assert_equal
from helpers import train as train_config
from torch import nn
from torch._dynamo import register_backend
from torch.cuda import _sanitizer as sanitizer
from torch.utils._python_dispatch import TorchDispatchMode

from mmselfkd import ConfigError, FrozenTeacher, ModelTeacher
from mmselfkd.teachers import BatchContext, Execution
from mmselfkd.teachers.execution import untapped_parts

SHARED = nn.Sequential(nn.Linear(1, 1))


class Model(nn.Module):

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.stem = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
        self.stages = nn.ModuleList([
            nn.Sequential(nn.Sequential(nn.Linear(1, 1)), nn.ReLU()),
            nn.Sequential(nn.Sequential(nn.Linear(1, 1)), SHARED)])
        self.head = nn.ModuleDict(dict(a=nn.Sequential(SHARED)))


@pytest.mark.parametrize('tapped, expected', [
    ([], 'stem stages.0 stages.1 head.a'),
    (['stem', 'layer', 'stages', 'head.a'],
     'stem stages.0 stages.1 head.a'),
    (['stages.0.0'], 'stem stages.0.0 stages.1 head.a'),
    (['stages.0.0.0'], 'stem stages.1 head.a'),
    (['stem.1', 'stages.0.1', 'head.a.0.0'], 'stages.0.0 stages.1.0')])
def test_untapped_parts(tapped, expected):
    """A shared module that is tapped is tapped wherever it stands."""
    model = Model()
    parts = untapped_parts(model, map(model.get_submodule, tapped))
    assert list(parts) == expected.split()
    assert all(parts[name] is model.get_submodule(name) for name in parts)


COUNTING = dict(backend='mmselfkd_counting')
graphs = []


@register_backend(name='mmselfkd_counting')
def counting(graph, inputs):
    """Compiles nothing, counts the convolutions of each graph it gets."""
    assert not any(isinstance(x, (int, torch.SymInt)) for x in inputs)  # sizes
    graphs.append(str(graph.graph).count('conv2d'))
    return graph.forward


@register_backend(name='mmselfkd_failing')
def failing(graph, inputs):
    raise RuntimeError('no compiler here')


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch._dynamo.reset()
    graphs.clear()
    yield
    torch._dynamo.reset()


def make(tiny, source, **options):
    teacher = FrozenTeacher(tiny.teacher()['config'], 'random',
                            key='NFDHook.teacher', **options)
    teacher.request(source, 'key', nn.Module())
    return teacher


def batch(images, size=32, batch_size=4):
    return BatchContext(nn.Module(), torch.rand(images, 3, size, size), None,
                        batch_size=batch_size)


def ready(teacher, first):
    teacher.fit(first, ExitStack())
    return teacher.rehearse(first)


@pytest.mark.parametrize('source, convolutions', [
    ('backbone', 22), ('logits', 24), ('backbone.layer2', 12),
    ('backbone.layer2.0.conv1', 7)])
def test_compiled_teacher_gives_the_same(tiny, source, convolutions):
    """All convolutions down to the tap but tapped ones are in graphs, made
    in the rehearsal for the batch of the run. Those of several parts are of
    fixed sizes too, although the parts share their code."""
    plain = make(tiny, source)
    compiled = make(tiny, source, compile=COUNTING)
    compiled.model.load_state_dict(plain.model.state_dict())
    first, later = batch(2), batch(4)
    for expected, levels in zip(*(
            ready(one, first).levels[source] for one in (plain, compiled))):
        assert torch.equal(expected, levels)
    made = len(graphs)
    assert sum(graphs) == convolutions
    for expected, levels in zip(*(
            one.teach(later, [source]).levels[source]
            for one in (plain, compiled))):
        assert torch.equal(expected, levels)
    assert len(graphs) == made
    assert compiled.describe().endswith('not trained, compiled')


def test_the_real_compiler(tiny):
    """True: torch's own default."""
    source = 'backbone.layer1.0.bn1'  # little to compile
    plain, compiled = make(tiny, source), make(tiny, source, compile=True)
    compiled.model.load_state_dict(plain.model.state_dict())
    ones = BatchContext(nn.Module(), torch.ones(4, 3, 32, 32), None)
    expected, got = (
        (ready(one, batch(2)), one.teach(ones, [source]))[1]
        .levels[source][0] for one in (plain, compiled))
    torch.testing.assert_close(got, expected)
    from torch._inductor import metrics
    assert metrics.generated_kernel_count


def test_compiled_and_in_half_precision(tiny):
    teacher = make(tiny, 'backbone', precision='bf16', channels_last=True,
                   compile=COUNTING)
    ready(teacher, batch(2))
    made = len(graphs)
    level = teacher.teach(batch(4), ['backbone']).levels['backbone'][0]
    assert level.dtype == torch.bfloat16
    assert level.is_contiguous(memory_format=torch.channels_last)
    assert made == len(graphs)


def train(tiny, work_dir, **options):
    """Soft labels, and features that need an adapter; its log and weights."""
    runner, logs = train_config(tiny.config(work_dir, dict(
        type='mmselfkd.DistillHook', teacher=tiny.teacher() | options,
        losses=dict(
            loss_kd=KD, loss_nfd=dict(NFD, source='backbone[2]')))))
    assert len(logs.entries) == 2
    return logs.entries, dict(runner.model.state_dict())


def test_a_run_with_a_compiled_teacher_is_the_same(tiny, tmp_path):
    expected = train(tiny, tmp_path / 'a')
    assert_equal(expected, train(
        tiny, tmp_path / 'b', compile=COUNTING))
    assert graphs


@pytest.mark.parametrize('option, value, says', [
    ('compile', 'yes', r"\.compile = 'yes': True, False or a dict"),
    ('compile', 1, r'\.compile = 1: '),
    ('compile', dict(bakend='x'),
     r"\.compile\.bakend = 'x': .*; nearest: 'backend'"),
    ('compile', dict(model='x'), r"\.compile\.model = 'x': .*'mode'"),
    ('compile', dict(mode='fast'), r"compile = {'mode': 'fast'}: .*fast"),
    ('compile', dict(backend='gone'), r'\.compile = .*: .*gone'),
    ('compile', dict(backend='mmselfkd_failing'), 'no compiler here'),
    ('side_stream', 1, r'\.side_stream = 1: True or False'),
    ('side_stream', True, 'side_stream = True: needs a GPU')])
def test_options_that_cannot_be_had(tiny, tmp_path, option, value,
                                    says):
    """Before the first iteration, with the key of the config."""
    with pytest.raises(ConfigError, match=says) as error:
        train(tiny, tmp_path, **{option: value})
    assert f'DistillHook.teacher.{option}' in str(error.value)


class OneLayer(nn.Module):
    """Nothing in it is a part of its own."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 1)

    def forward(self, inputs, samples=None, mode='tensor'):
        return self.backbone(inputs)


def test_nothing_to_compile():
    teacher = ModelTeacher(OneLayer(), execution=Execution(
        compile=True, key='NFDHook.teacher'))
    teacher.request('backbone', 'key', nn.Module())
    with pytest.raises(ConfigError, match=(
            'NFDHook.teacher.compile = .*no part of the teacher')):
        ready(teacher, batch(2))


# -- the side stream ----------------------------------------------------------


class Arguments(sanitizer.ArgumentHandler):
    """Of the kernels of a CPU; a view is the memory it looks at."""

    def _handle_argument(self, value, is_write, metadata_only, name=None,
                         is_output=False):
        if not isinstance(value, torch.Tensor):
            return
        place = value.untyped_storage()._cdata
        if is_write:
            self.dataptrs_written.add(place)
        elif not metadata_only:
            self.dataptrs_read.add(place)
        self.tensor_aliases.setdefault(place, []).append(name)


class Streams(TorchDispatchMode):
    """Stands for the queues of a GPU and finds data races between them.

    What torch's own sanitizer knows of CUDA's streams, on kernels of the
    CPU: whatever touches what another stream has written, or writes what it
    reads, must have waited for it.
    """

    def __init__(self):
        super().__init__()
        self.handler = sanitizer.EventHandler()
        self.current, self.numbers = 0, itertools.count(1)
        self.kernels, self.races, self.kept = {}, [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = bool(
            sanitizer.FACTORY_FUNCTION_REGEX.match(func._schema.name))
        seen = Arguments()
        seen.parse_inputs(func._schema, args, kwargs, is_factory=made)
        out = func(*args, **kwargs)
        seen.parse_outputs(func._schema, out, is_factory=made)
        self.kept.append((args, kwargs, out))  # so no memory is used twice
        self.kernels.setdefault(self.current, []).append(str(func))
        self.races += self.handler._handle_kernel_launch(
            self.current, seen.dataptrs_read - seen.dataptrs_written,
            seen.dataptrs_written, seen.outputs, func._schema,
            seen.tensor_aliases)
        return out


class Stream:

    def __init__(self, streams, number):
        self.streams, self.number = streams, number

    def wait_stream(self, other):
        syncs = self.streams.handler.syncs
        event = next(self.streams.numbers)
        syncs.record_state(event, other.number)
        syncs.stream_wait_for_event(self.number, event)

    def __enter__(self):
        self.before, self.streams.current = self.streams.current, self.number

    def __exit__(self, *_):
        self.streams.current = self.before


@pytest.fixture
def streams(monkeypatch):
    """The CPU with streams, so that a teacher may have one of its own."""
    streams, prepare = Streams(), Execution.prepare
    monkeypatch.setattr(torch, 'meta', SimpleNamespace(
        Stream=lambda device: Stream(streams, next(streams.numbers)),
        stream=lambda stream: stream,
        current_stream=lambda device: Stream(streams, streams.current)),
        raising=False)
    monkeypatch.setattr(
        Execution, 'prepare', lambda self, model, device, waits_for: prepare(
            self, model, torch.device('meta'), waits_for))
    return streams


def test_no_data_race_with_the_side_stream(tiny, tmp_path, streams):
    """The whole teacher beside the whole student; the same run."""
    expected = train(tiny, tmp_path / 'a')
    with streams:
        found = train(tiny, tmp_path / 'b', side_stream=True)
    assert_equal(expected, found)
    assert not streams.races, streams.races[0]
    main, side = streams.kernels.values()
    convolution = 'aten.convolution.default'
    # 25 in the teacher and in the student, 3 in its auxiliary head, 1 in the
    # adapter: a rehearsal, in which the teacher's own losses are computed in
    # the main stream, two iterations, two batches of validation
    assert side.count(convolution) == 3 * 25
    assert main.count(convolution) == 25 + 3 * (25 + 3 + 1) + 2 * 25
    assert not any('backward' in kernel for kernel in side)


@pytest.mark.parametrize('forgotten', ['begin', 'end'])
def test_what_is_forgotten_is_a_data_race(tiny, tmp_path, streams,
                                          monkeypatch, forgotten):
    """So the test above can fail."""
    wait = Stream.wait_stream

    def forget(self, other):
        if (self.number == 0) == (forgotten == 'begin'):
            wait(self, other)

    monkeypatch.setattr(Stream, 'wait_stream', forget)
    with streams:
        train(tiny, tmp_path, side_stream=True)
    assert streams.races


def test_side_stream_beside_a_student_it_needs():
    execution = Execution(side_stream=True, key='NFDHook.teacher')
    with pytest.raises(ConfigError, match=(
            "NFDHook.teacher.side_stream.*needs 'rois' of the student")):
        execution.prepare(nn.Module(), torch.device('cuda'), 'rois')
