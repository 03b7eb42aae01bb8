"""Checkpoints of other projects, laid out as their code saves them."""
import copy
import os
import subprocess
import sys
from collections import OrderedDict

import convert_checkpoint
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

SAVED = torch.serialization.get_unsafe_globals_in_checkpoint
# what lies beside the student, by format: names and how they are reported
RAZOR = ('teacher.neck.w', 'distiller.connectors.a.w', 'data_preprocessor.m',
         'val_data_preprocessor.m')
RAZOR_RC = ('teacher.neck.w', 'connectors.a.w', 'distill_losses.kd.w')
DATA_FREE = ('teachers.a.w', 'generator.w', 'generator_distiller.x.w')
RAZOR_0 = ('distiller.teacher.neck.w', 'distiller.align_modules.a.w',
           'ema_architecture_model_backbone_w')
MGD = ('teacher.neck.w', 'distill_losses.loss_mgd.align.w')
FGD = MGD + ('student_neck_fpn', 'teacher_neck_fpn', 'discriminator.w',
             'ema_student_backbone_w')
LAYOUTS = [
    ('mmrazor 1.x', 'architecture.', RAZOR),
    ('mmrazor 1.x', 'architecture.', RAZOR_RC),
    ('mmrazor 1.x', 'architecture.', DATA_FREE),
    ('mmrazor 1.x', 'architecture.', RAZOR[1:]),  # of itself
    ('mmrazor 0.x', 'architecture.model.', RAZOR_0),
    ('mm*-distiller (such as MGD and FGD)', 'student.', MGD),
    ('mm*-distiller (such as MGD and FGD)', 'student.', FGD),
    ('mm*-distiller (such as MGD and FGD)', 'student.', ())]


@pytest.fixture(scope='module')
def model():
    from tiny_runs import model
    return MODELS.build(dict(model(4), _scope_='mmseg'))


@pytest.fixture(scope='module')
def student(model):
    """The weights of a real student; some with peculiar values."""
    state = copy.deepcopy(model.state_dict())
    state['decode_head.conv_seg.bias'][:3] = torch.tensor(
        [float('nan'), -0., 1e-42])
    return state


def wrap(weights, prefix, beside=()):
    """A state_dict with the student below a prefix, as a model gives it."""
    state = OrderedDict((prefix + name, value)
                        for name, value in weights.items())
    for name in beside:
        state[name] = torch.rand(2, 3)
    versions = getattr(weights, '_metadata', {})
    state._metadata = OrderedDict({'': dict(version=7)})
    for name, version in versions.items():
        state._metadata[f'{prefix}{name}'.rstrip('.')] = version
    return state


@pytest.fixture
def source(tmp_path):
    """Saves what it is given; returns the path."""

    def save(content, name='source.pth', **kwargs):
        torch.save(content, tmp_path / name, **kwargs)
        return tmp_path / name

    return save


@pytest.fixture
def convert(tmp_path, capsys):
    """Runs the tool; returns the checkpoint it wrote and what it said."""

    def run(path, *flags, target=tmp_path / 'student.pth'):
        convert_checkpoint.main([str(x) for x in (path, target, *flags)])
        out = capsys.readouterr().out
        assert out.endswith(f'written: {target}\n')
        # anyone reads it safely, and no partial file is left
        assert not list(tmp_path.glob('*.tmp'))
        return torch.load(target, weights_only=True), out

    return run


@pytest.fixture
def refused(tmp_path, convert):
    """Runs the tool, which must end with this and write nothing."""

    def run(path, message, *flags, **kwargs):
        before = {f: f.stat().st_mtime_ns for f in tmp_path.rglob('*')}
        with pytest.raises(SystemExit, match=message) as ended:
            convert(path, *flags, **kwargs)
        assert isinstance(ended.value.code, str)  # so the exit status is 1
        assert before == {
            f: f.stat().st_mtime_ns for f in tmp_path.rglob('*')}
        return ended.value.code

    return run


def same(weights, expected):
    """Bit for bit, in the same order."""
    assert list(weights) == list(expected)
    for name, value in expected.items():
        assert weights[name].dtype == value.dtype
        assert weights[name].shape == value.shape
        assert weights[name].numpy().tobytes() == value.numpy().tobytes()


@pytest.mark.parametrize('name, prefix, beside', LAYOUTS)
def test_formats(model, student, source, convert, name, prefix, beside):
    """Also the versions of the modules, which some heads look at."""
    state = wrap(student, prefix, beside)
    checkpoint, out = convert(source(dict(meta={}, state_dict=state)))
    assert list(checkpoint) == ['meta', 'state_dict']
    weights = checkpoint['state_dict']
    same(weights, student)
    assert weights._metadata == student._metadata
    assert weights._metadata['decode_head.convs.0.bn'] == dict(version=2)
    model.load_state_dict(weights, strict=True)

    assert f'source.pth: {name}\n' in out
    assert f'kept: {len(student)} weights of {prefix}*\n' in out
    groups = [weight.split('.')[0] + '.*' if '.' in weight else
              weight.split('_')[0] + '_*' for weight in beside]
    dropped = [f'{group} ({groups.count(group)})' for group in
               sorted(set(groups))]
    assert ('  dropped: weights of ' + ', '.join(dropped) + '\n' in out) == (
        'dropped' in out) == bool(beside)
    assert 'not checked: --config' in out
    assert ("mmcv's EMAHook ran" in out) == ('ema_*' in groups)
    assert '  EMAHook ran' not in out


def test_saved_from_inside_a_wrapper(student, source, convert):
    state = wrap(wrap(student, 'student.', MGD), 'module.')
    weights = convert(source(dict(state_dict=state)))[0]['state_dict']
    same(weights, student)
    assert weights._metadata == student._metadata


def test_the_prefix_goes_once(source, convert):
    """Wherever else it stands in a name, it stays; views stay what they are.

    A student of mmrazor 1.x that is one `model` is not of 0.x.
    """
    weights = {'model.architecture.student.w': torch.arange(6.).view(2, 3).T}
    state = wrap(weights, 'architecture.', ['teacher.w'])
    checkpoint, out = convert(source(dict(state_dict=state)))
    same(checkpoint['state_dict'], weights)
    assert 'mmrazor 1.x' in out


def test_bare_weights(student, source, convert):
    checkpoint, out = convert(source(dict(wrap(student, 'student.', MGD))))
    same(checkpoint['state_dict'], student)
    assert checkpoint['meta'] == {}
    assert out.count('dropped') == 1  # of weights, not of entries
    assert not hasattr(checkpoint['state_dict'], '_metadata')


def test_old_file_format(student, source, convert):
    """Of torch before 1.6, of the time of the first distillers."""
    state = wrap(student, 'student.', MGD)
    checkpoint, _ = convert(
        source(dict(state_dict=state), _use_new_zipfile_serialization=False))
    same(checkpoint['state_dict'], student)


def test_meta(source, convert):
    """That of mmdet 2.x and mmseg 0.x; what is no plain data is named."""
    meta = dict(
        CLASSES=('a', 'b'), PALETTE=np.array([[1, 2], [3, 4]]), epoch=3,
        hook_msgs=dict(best=np.float64(0.5), other=[torch.ones(1)], none=None),
        seed=np.int32(7), big=torch.zeros(1))
    path = source(dict(meta=meta, optimizer={}, amp=1,
                       state_dict=wrap({'w': torch.ones(1)}, 'student.')))
    checkpoint, out = convert(path)
    assert checkpoint['meta'] == dict(
        dataset_meta=dict(classes=('a', 'b'), palette=[[1, 2], [3, 4]]),
        epoch=3, hook_msgs=dict(best=0.5, none=None), seed=7)
    assert type(checkpoint['meta']['hook_msgs']['best']) is float
    assert ('  dropped: amp, meta.big, meta.hook_msgs.other, optimizer\n'
            in out)


def test_what_only_looks_like_plain_data():
    kept = convert_checkpoint.plain(torch.__version__)
    assert kept == torch.__version__ and type(kept) is str


@pytest.mark.parametrize('core', [b'core', b'_core'])
def test_numbers_of_numpy_1_and_2(source, convert, core):
    meta = dict(number=np.float32(0.5), array=np.arange(3))
    path = source(dict(meta=meta, state_dict={'student.w': torch.ones(1)}),
                  _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    for other in (b'core', b'_core'):
        content = content.replace(b'numpy.' + other, b'numpy.' + core)
    path.write_bytes(content)
    assert convert(path)[0]['meta'] == dict(number=0.5, array=[0, 1, 2])


@pytest.mark.parametrize('meta, expected', [
    (dict(CLASSES=('a',)), dict(dataset_meta=dict(classes=('a',)))),
    (dict(CLASSES=None), {}), (None, {}),
    (dict(dataset_meta=dict(classes=('b',)), CLASSES=('a',)),
     dict(dataset_meta=dict(classes=('b',))))])
def test_classes(source, convert, meta, expected):
    path = source(dict(meta=meta, state_dict={'student.w': torch.ones(1)}))
    assert convert(path)[0]['meta'] == expected


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """What a run of mmengine saves, with our hook and an average."""
    import tiny_runs as tiny
    folder = tmp_path_factory.mktemp('run')
    cfg = tiny.config(
        folder, dict(type='EMAHook', momentum=0.3),
        dict(type='mmselfkd.TFDHook'), param_scheduler=[])
    tiny.build(cfg).train()
    cfg.dump(folder / 'student.py')
    return folder


def test_a_real_run(run, source, convert):
    """As mmrazor saves it: logs, optimizer and average lie beside it."""
    saved = torch.load(run / 'iter_2.pth', weights_only=False)
    assert 'builtins.getattr' in SAVED(run / 'iter_2.pth')
    del saved['mmselfkd']
    weights = saved['state_dict']
    saved['state_dict'] = wrap(weights, 'architecture.', RAZOR)
    saved['ema_state_dict'] = OrderedDict(
        (name.replace('module.', 'module.architecture.'), value)
        for name, value in saved['ema_state_dict'].items())
    checkpoint, out = convert(
        source(saved), '--config', run / 'student.py')
    same(checkpoint['state_dict'], weights)
    assert list(checkpoint) == ['meta', 'state_dict']
    assert checkpoint['meta'] == saved['meta']
    assert len(checkpoint['meta']['dataset_meta']['classes']) == 7
    assert ('dropped: ema_state_dict, message_hub, optimizer, '
            'param_schedulers\n') in out
    assert '  EMAHook ran: the weights that are kept are the averaged' in out
    assert f'checked: it loads strictly into {run}/student.py' in out
    name = 'backbone.stem.0.weight'  # indeed not what the training reached
    assert not torch.equal(weights[name], saved['ema_state_dict'][
        'module.architecture.' + name])


def test_our_own(run, convert):
    checkpoint, out = convert(
        run / 'iter_2.pth', '--config', run / 'student.py')
    saved = torch.load(run / 'iter_2.pth', weights_only=False)
    same(checkpoint['state_dict'], saved['state_dict'])
    assert 'iter_2.pth: mmselfkd\n' in out
    assert 'dropped: ema_state_dict, message_hub, mmselfkd, opt' in out
    assert 'a stock student already; nothing else needed doing' in out


def test_stock(run, source, refused):
    saved = torch.load(run / 'iter_2.pth', weights_only=False)
    del saved['mmselfkd']
    refused(source(saved), 'stock checkpoint already: nothing to convert')


def test_mean_teacher(source, convert):
    """mmdet's semi-supervised models are laid out in the same way."""
    state = {'student.w': torch.ones(2), 'teacher.w': torch.ones(2)}
    assert 'mean teacher' in convert(source(dict(state_dict=state)))[1]
    state['teacher.w'] = torch.ones(3)
    assert 'mean teacher' not in convert(
        source(dict(state_dict=state)), '--force')[1]


class Attack:
    """Runs a function when it is unpickled."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('where, function, named', [
    ('meta', os.mkdir, f'{os.mkdir.__module__}.mkdir'),
    ('optimizer', eval, 'eval'), ('state_dict', open, 'io.open')])
def test_nothing_is_executed(tmp_path, source, refused, convert, zipped,
                             where, function, named):
    """The attack works, where one asks for it."""
    victim = tmp_path / 'victim'
    args = dict(mkdir=[str(victim)], open=[str(victim), 'w'],
                eval=[f'__import__("os").mkdir({str(victim)!r})'])
    content = dict(meta={}, state_dict={'student.w': torch.ones(1)})
    content.setdefault(where, {})['teacher.x'] = Attack(
        function, *args[function.__name__])
    path = source(content, _use_new_zipfile_serialization=zipped)
    told = refused(path, f"unpickle '{named}'")
    assert '--trust-checkpoint' in told and 'whose origin you trust' in told
    assert not victim.exists()

    with pytest.warns(UserWarning, match='not safe to read, but trusted: it '
                      f"wants to unpickle '{named}"):
        checkpoint, _ = convert(path, '--trust-checkpoint')
    assert victim.exists()
    same(checkpoint['state_dict'], {'w': torch.ones(1)})


def test_what_the_logs_name_opens_nothing(source, convert):
    """mmengine's logs hold `getattr` and a class; neither is the real one."""
    from mmengine.logging import HistoryBuffer
    statistics = dict(HistoryBuffer._statistics_methods)
    known = set(torch.serialization.get_safe_globals())
    found = Attack(getattr, HistoryBuffer, '_statistics_methods')
    path = source(dict(
        meta=dict(found=found), message_hub=[HistoryBuffer([1.], [1])],
        state_dict={'student.w': torch.ones(1)}))
    assert convert(path)[0]['meta'] == dict(found=None)
    assert HistoryBuffer._statistics_methods == statistics
    assert set(torch.serialization.get_safe_globals()) == known


@pytest.mark.parametrize('state, message', [
    ({'student.w': 1, 'architecture.w': 1},
     r'mixes several formats: architecture.\* \(1\), student.\* \(1\)'),
    ({'student.w': 1, 'backbone.w': 1}, 'mixes several formats: backbone'),
    ({'architecture.w': 1, 'backbone.w': 1}, 'mixes several formats'),
    ({'module.student.w': 1, 'teacher.w': 1}, r'unknown are module.\*'),
    ({'teacher.w': 1, 'distill_losses.w': 1, 'student_neck': 1},
     r'no student weights, neither architecture.\* nor student.\*; it has '
     r'distill_losses.\* \(1\), student_\* \(1\), teacher.\* \(1\)'),
    ({'net.a': 1, 'net.b': 1, 'head.c': 1},
     r'unknown are head.\*, net.\* among head.\* \(1\), net.\* \(2\). '
     r'Known are mmrazor 1.x: architecture.\* beside .*mm.-distiller'),
    ({'student.w': 1, 'bank.w': 1}, r'unknown are bank.\* among bank'),
    ({'architecture.w': 1, 'student_neck': 1}, r'unknown are student_\*'),
    ({'architecture.model.w': 1, 'pool.w': 1}, r'unknown are pool.\*'),
    ({'architecture.model.w': 1, 'architecture.model.distiller.w': 1},
     r'unknown are architecture.model.distiller.\*'),
    ({'student.student.w': 1}, r'unknown are student.student.\*'),
    ({'architecture.w': 1, 'mutator.a': 1}, r'searched.*\(mutator.\*\)'),
    ({'architecture.model.w': 1, 'pruner.a': 1}, r'pruned.*\(pruner.\*\)'),
    ({'architecture.w': 1, 'qmodels.a': 1}, r'quantised \(qmodels.\*\)'),
    ({'architecture.b.mutable_attrs.in_channels.mask': 1}, 'mutable_attrs'),
    ({'architecture.b._candidates.conv.w': 1}, '_candidates'),
])
def test_refused_layouts(source, refused, state, message):
    state = dict.fromkeys(state, torch.ones(1))
    refused(source(dict(meta={}, state_dict=state)), message)


def test_a_teacher_that_was_searched(source, convert):
    state = {'architecture.w': torch.ones(1), 'teacher._candidates.w':
             torch.ones(1), 'teacher.mutable_attrs.mask': torch.ones(1)}
    checkpoint, _ = convert(source(dict(state_dict=state)))
    same(checkpoint['state_dict'], {'w': torch.ones(1)})


@pytest.mark.parametrize('key', ['cfg', 'config'])
def test_a_search_that_only_the_config_tells(source, refused, convert, key):
    def path(line):
        return source({'meta': {key: f'model = dict(\n    {line},\n'},
                       'state_dict': {'architecture.w': torch.ones(1)}})

    refused(path("mutator=dict(type='ChannelMutator')"), 'in its config')
    refused(path('mutator_cfg = dict()'), 'in its config')
    convert(path("mutator=None, work_dir='mutator'"))


@pytest.mark.parametrize('content, message', [
    ([1], 'holds a list, not a checkpoint'),
    ({}, 'no weights; its entries: none'),
    (dict(meta={}, state_dict={}), 'no weights; its entries: meta, state_'),
    (dict(model={'student.w': torch.ones(1)}), 'its entries: model'),
    (dict(state_dict=[1]), 'holds no weights'),
    (dict(state_dict={1: torch.ones(1)}), 'weights without a name'),
    (dict(state_dict={'student.w': torch.ones(1), 'student.x': 'y'}),
     'student.x is a str, not a weight')])
def test_refused_contents(source, refused, content, message):
    refused(source(content), message)


@pytest.mark.parametrize('content, message', [
    (b'', 'EOFError'), (b'hello', 'cannot be read, .*: KeyError'),
    (b'PK\3\4 and no more', 'cannot be read, .*: RuntimeError')])
def test_broken_files(tmp_path, refused, content, message):
    path = tmp_path / 'broken.pth'
    path.write_bytes(content)
    told = refused(path, message)
    assert '--trust-checkpoint' not in told and '\n' not in told
    refused(path, message, '--trust-checkpoint')


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
def test_what_the_safe_loader_cannot_read(source, refused, convert):
    path = source({'student.w': torch.ones(1)}, pickle_protocol=4)
    told = refused(path, 'read safely: UnpicklingError: Unsupported operand')
    assert '--trust-checkpoint' in told and '\n' not in told
    with pytest.warns(UserWarning, match='Unsupported operand'):
        convert(path, '--trust-checkpoint')


def test_torch_without_a_list_of_what_is_safe(monkeypatch, tmp_path, source,
                                              refused, convert):
    """It reads less, yet safely."""
    monkeypatch.delattr(torch.serialization, 'safe_globals')
    convert(source({'student.w': torch.ones(1)}))
    logs = dict(message_hub=np.float64(1), state_dict={})
    refused(source(logs), 'read safely: it wants to unpickle .numpy',
            target=tmp_path / 'other.pth')


def test_a_trusted_file_that_cannot_be_read(source, refused):
    path = source(dict(x=Attack(int, 'no number')))
    refused(path, "wants to unpickle 'int'")
    with pytest.warns(UserWarning, match='but trusted'):
        refused(path, 'cannot be read, .*: ValueError: invalid literal',
                '--trust-checkpoint')


def test_missing_source(tmp_path, source, refused):
    source({}, 'iter_100.pth')
    refused(tmp_path / 'iter_10.pth', 'nearest in .*: iter_100.pth')


def test_target(tmp_path, source, refused, convert):
    path = source({'student.w': torch.ones(1)})
    there = source('precious', 'there.pth')
    refused(path, 'exists; --force replaces it', target=there)
    refused(path, 'is SOURCE', '--force', target=path)
    refused(path, 'is a folder', '--force', target=tmp_path)
    refused(path, "no folder '.*none'", target=tmp_path / 'none' / 'x.pth')
    convert(path, '--force', target=there)


def test_target_without_a_folder(tmp_path, monkeypatch, source, convert):
    monkeypatch.chdir(tmp_path)
    convert(source({'student.w': torch.ones(1)}), target='here.pth')
    assert (tmp_path / 'here.pth').is_file()


@pytest.mark.parametrize('failure', [OSError('disk'), RuntimeError('disk')])
def test_nothing_half_written(tmp_path, monkeypatch, source, refused,
                              failure):
    path = source({'student.w': torch.ones(1)})

    def fail(_, file):
        open(file, 'w').close()
        assert os.path.dirname(file) == str(tmp_path)  # for os.replace
        raise failure

    monkeypatch.setattr(torch, 'save', fail)
    before = os.listdir(tmp_path)
    with pytest.raises(SystemExit, match='cannot be written: disk'):
        convert_checkpoint.main([str(path), str(tmp_path / 'student.pth')])
    assert os.listdir(tmp_path) == before


def test_a_student_that_does_not_fit(run, source, refused, student):
    weights = OrderedDict(student)
    del weights['decode_head.conv_seg.bias']
    weights['backbone.stem.0.weight'] = torch.ones(5, 3, 3, 3)
    weights['decode_head.extra'] = torch.ones(1)
    for number in range(12):
        weights[f'decode_head.more{number}'] = torch.ones(1)
    told = refused(source(wrap(weights, 'student.')), 'nothing was written',
                   '--config', run / 'student.py')
    assert told.splitlines()[1:] == [
        '  1 missing: decode_head.conv_seg.bias',
        '  13 unexpected: decode_head.extra, ' + ', '.join(
            f'decode_head.more{number}' for number in range(9)) + ', ...',
        '  1 of another shape: backbone.stem.0.weight (5, 3, 3, 3) instead '
        'of (2, 3, 3, 3)']


class Renaming(nn.Linear):
    """Reads what an older version of itself wrote."""

    def _load_from_state_dict(self, state, prefix, *args):
        if prefix + 'old' in state:
            state[prefix + 'bias'] = state.pop(prefix + 'old')
        super()._load_from_state_dict(state, prefix, *args)


def test_a_student_that_knows_its_older_names(monkeypatch, source, convert):
    monkeypatch.setattr(convert_checkpoint, 'build', lambda _: Renaming(2, 3))
    weights = {'weight': torch.ones(3, 2), 'old': torch.ones(3)}
    checkpoint, _ = convert(
        source(wrap(weights, 'student.')), '--config', 'any')
    same(checkpoint['state_dict'], weights)


@pytest.mark.parametrize('content, message', [
    ('', 'no model can be built: .*model'), ('1 / 0', 'no model can be built'),
    ("model = dict(type='NotThere')", 'no model can be built: .*NotThere'),
    (None, 'no config .*nor any other')])
def test_refused_configs(tmp_path, source, refused, content, message):
    path = source({'student.w': torch.ones(1)})
    if content is not None:
        (tmp_path / 'config.py').write_text(content)
    refused(path, f'(?s){message}', '--config', tmp_path / 'config.py')


def test_config_by_its_name(refused, source):
    name = 'mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py'
    path = source({'student.w': torch.ones(1)})
    with DefaultScope.overwrite_default_scope('mmengine'):
        refused(path, 'does not fit', '--config', name)


def test_command_line(root, tmp_path, student, source):
    """Status 0, then 1 and one line instead of a traceback."""
    path = source(dict(state_dict=wrap(student, 'architecture.', RAZOR)))
    tool = root / 'tools' / 'convert_checkpoint.py'
    command = [sys.executable, tool, path, tmp_path / 'student.pth']
    # one process for both: an import takes seconds
    code = ('import runpy, sys\n'
            f'sys.argv = {[str(part) for part in command[1:]]}\n'
            f'for _ in range(2): runpy.run_path({str(tool)!r}, None,'
            ' "__main__")\n')
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True,
        env=dict(os.environ, PYTHONPATH=f'{root}:{tool.parent}'))
    assert done.stdout.count('written: ') == 1
    assert done.returncode == 1
    assert done.stderr.strip().endswith('exists; --force replaces it')
    assert 'Traceback' not in done.stderr
    same(torch.load(tmp_path / 'student.pth')['state_dict'], student)
