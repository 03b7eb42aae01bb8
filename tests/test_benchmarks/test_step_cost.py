"""The price list of training steps, on runs of a second."""
import copy
import sys
from types import SimpleNamespace

import measuring
import mmrazor_step
import pytest
import step_cost
import step_report
import step_variants
import torch
from methods import is_distillation
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS, DefaultScope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from step_variants import without_distillation
from torch import nn

from mmselfkd import DistillHook, FrozenTeacher
from mmselfkd.losses import HolisticLoss, kd_loss
from mmselfkd.teachers import BatchContext, TeacherOutput

KD = dict(loss_kd=dict(type='KDLoss', source='logits'))
HO = dict(loss_ho=dict(type='HolisticLoss', source='logits'))
TFD = dict(type='mmselfkd.TFDHook')


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """No pretty layout of dumped configs, memory of one step only."""
    monkeypatch.setattr('yapf.yapflib.yapf_api.FormatCode',
                        lambda text, **_: (text, True))
    monkeypatch.setattr(step_cost, 'MEMORY_ROUNDS', 1)


@pytest.fixture
def write(tiny, tmp_path):
    """Writes a tiny config; returns its path."""

    def write(name, *hooks, **changes):
        cfg = tiny.config(tmp_path / 'never', *copy.deepcopy(hooks), **changes)
        cfg.dump(tmp_path / f'{name}.py')
        return tmp_path / f'{name}.py'

    return write


@pytest.fixture
def bench(monkeypatch, capsys):
    """Runs the tool; returns what it printed and its tables by row."""

    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['step_cost.py', *map(str, args)])
        step_cost.main()
        out = capsys.readouterr().out
        merged, header = {}, []
        for line in out.splitlines():
            cells = [cell.strip() for cell in line.strip('|').split('|')]
            if not line.startswith('|'):
                header = []
            elif not header:
                header = cells
            elif cells[0] != '-':
                row = merged.setdefault(cells[0], {})
                for name, cell in zip(header[1:], cells[1:]):
                    unit = 'MiB ' if 'MiB' in header and name == (
                        'ratio to floor') else ''
                    row[unit + name] = cell
        return out, merged

    return run


def number(cell):
    return float(cell.split()[0].replace(',', ''))


def test_variants_of_one_student(tiny, tmp_path, write, bench):
    """One plain reference, ratios, parameters, floors, and the file."""
    out = tmp_path / 'new' / 'table.md'
    printed, table = bench(
        write('nfd', dict(type='mmselfkd.NFDHook', teacher=tiny.teacher(8))),
        write('frskd', dict(type='mmselfkd.FRSKDHook'), iters=30),
        write('mine', dict(type='mmselfkd.DistillHook', losses=KD | HO,
                           teacher=dict(type='SnapshotTeacher', interval=20)),
              iters=30),
        write('stock', iters=30), '--iters', 2, '--warmup', 1, '--out', out,
        '--device-note', 'in a test')
    assert list(table) == ['plain', 'nfd', 'frskd', 'mine', 'stock']
    assert out.read_text() in printed
    about = next(line for line in printed.splitlines() if 'rounds' in line)
    assert about.endswith(
        '1 thread; torch ' + torch.__version__ +
        '; batch 2x3x32x32; 2 rounds; seed 3; wall time; in a test')
    assert printed.endswith("the plain student's modules, exactly\n")

    for name, row in table.items():
        assert number(row['ms']) > 0
        if name != 'plain':
            assert number(row['plain steps a step']) > 0
        assert number(row['checkpoint MiB']) > 0
        assert number(row['MiB']) > 0
    assert table['plain']['plain steps a step'] == '-'
    extra = {name: row['extra trained parameters']
             for name, row in table.items()}
    # the head of the student gives 8 channels, that of the teacher 16
    assert number(extra['nfd']) == 8 * 16 + 16
    assert number(extra['frskd']) > 0
    loss = HolisticLoss()
    loss.build(*torch.rand(2, 2, 7, 32, 32), torch.rand(2, 3, 32, 32))
    assert number(extra['mine']) == sum(p.numel() for p in loss.parameters())
    assert extra['stock'] == '0'
    student, teacher = (Runner.build_model(
        None, dict(tiny.model(width), _scope_='mmseg')) for width in (4, 8))
    del teacher.auxiliary_head
    for name, model in (('nfd', teacher), ('mine', student)):
        assert number(table[name]['teacher parameters']) == sum(
            p.numel() for p in model.parameters())
        assert number(table[name]['floor ms']) > number(table['plain']['ms'])
        assert number(table[name]['ratio to floor']) > 0
        for column in ('teacher ms', 'teacher MiB', 'MiB ratio to floor'):
            assert number(table[name][column]) > 0
        assert number(table[name]['floor MiB']) > number(
            table['plain']['MiB'])
    assert table['frskd']['floor ms'] == table['stock']['floor ms'] == '-'

    # where FRSKD's losses are on, and the teacher has its snapshot; a run
    # that is too short for the rounds begins at its start
    on = {name: row['losses on'] for name, row in table.items()}
    assert on == dict(plain='-', nfd='1 of 1', frskd='2 of 2', mine='2 of 2',
                      stock='-')
    begins = {name: row['from iteration'] for name, row in table.items()}
    assert begins == dict(plain='1', nfd='1', frskd='27', mine='27',
                          stock='27')


def test_students_of_their_own(tmp_path, write, bench):
    """Another width, another batch, and nothing to compare with."""
    _, table = bench(
        write('one', TFD, iters=20), write('two', TFD, iters=20, width=8),
        write('alone', by_epoch=True), '--iters', 1, '--warmup', 0,
        '--cfg-options', 'val_cfg.unused=1')
    assert list(table) == ['plain of one', 'one', 'plain of two', 'two',
                           'alone']
    assert number(table['plain of two']['MiB']) > number(
        table['plain of one']['MiB'])
    assert table['alone']['plain steps a step'] == '-'


def test_a_teacher_that_was_asked_before(tiny, write, bench):
    """Its answers are read, its weights take no part."""
    printed, table = bench(
        write('kd', dict(type='mmselfkd.DistillHook', losses=KD,
                         teacher=tiny.teacher(8))),
        write('tfd', TFD), '--iters', 2, '--warmup', 1, '--cached')
    assert list(table) == ['plain', 'kd', 'kd, cached', 'tfd']
    live, cached = table['kd'], table['kd, cached']
    assert cached['without cache'] == live['plain steps a step']
    assert number(cached['teacher ms']) < number(live['teacher ms']) / 3
    assert number(cached['reading ahead, ms']) > 0
    assert number(cached['ratio to what is left']) > 0
    assert cached['teacher parameters'] == '0'
    assert number(cached['MiB']) < number(live['MiB'])
    with pytest.raises(SystemExit, match='--cached: no config has a pretr'):
        bench(write('tfd', TFD), '--cached')


def test_the_step_of_mmrazor(tiny, write, bench):
    """The whole teacher in training, and in the checkpoint."""
    config = write('kd', dict(
        type='mmselfkd.DistillHook', teacher=tiny.teacher(8), losses=dict(
            loss_kd=dict(KD['loss_kd'], temperature=2.0, loss_weight=3.0))))
    printed, table = bench(config, '--iters', 1, '--warmup', 0, '--mmrazor',
                           '--cpu-time')
    assert list(table) == ['plain', 'kd', 'kd, as mmrazor']
    assert 'kd takes ' in printed and '; CPU time' in printed
    saved = {name: number(row['checkpoint MiB'])
             for name, row in table.items()}
    weights = number(table['kd']['teacher parameters']) * 4 / 2**20
    assert saved['kd'] == pytest.approx(saved['plain'], abs=0.1)
    assert saved['kd, as mmrazor'] > saved['kd'] + weights

    cfg = Config.fromfile(config)
    cfg = mmrazor_step.as_mmrazor(cfg.custom_hooks[0],
                       without_distillation(cfg))
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(cfg.model).train()
    assert model.architecture.training and model.teacher.training
    assert not any(m.training for m in model.teacher.modules()
                   if isinstance(m, nn.BatchNorm2d))
    assert not any(p.requires_grad for p in model.teacher.parameters())
    assert not any(getattr(m, 'inplace', False)
                   for m in model.teacher.modules())
    sample = SegDataSample(
        gt_sem_seg=PixelData(data=torch.zeros(1, 32, 32).long()),
        metainfo=dict(img_shape=(32, 32)))
    ran = []
    for name in ('teacher.auxiliary_head.conv_seg', 'teacher.decode_head.'
                 'loss_decode', 'architecture.backbone'):
        model.get_submodule(name).register_forward_hook(
            lambda *_, name=name: ran.append(name.split('.')[1]))
    seen = {}
    for name in ('teacher', 'architecture'):
        model.get_submodule(f'{name}.decode_head.conv_seg'
                            ).register_forward_hook(
            lambda module, args, out, name=name: seen.update({name: out}))
    losses = model(torch.rand(1, 3, 32, 32), [sample], mode='loss')
    assert set(ran[:-1]) == {'auxiliary_head', 'decode_head'}
    assert ran[-1] == 'backbone'  # the teacher first
    height, width = seen['teacher'].shape[2:]
    expected = 3 * height * width * kd_loss(
        seen['architecture'], seen['teacher'], temperature=2.0)
    torch.testing.assert_close(losses['distill.loss_kl'], expected)
    assert 'student.decode.loss_ce' in losses


def test_what_mmrazor_is_not_compared_on(tiny, write, bench):
    with pytest.raises(SystemExit, match='--mmrazor: .* one KDLoss'):
        bench(write('tfd', TFD), '--mmrazor')
    kd = dict(type='mmselfkd.DistillHook', teacher=tiny.teacher(), losses=KD)
    with pytest.raises(SystemExit, match='--mmrazor: two has several'):
        bench(write('two', kd, TFD), '--mmrazor')


def test_the_options_of_a_teacher(tiny, write, bench, monkeypatch):
    """Each against the same without: time, step, and what is taught."""
    monkeypatch.setattr(step_variants, 'OPTIONS', {
        'bf16': dict(precision='bf16'),
        'compiled': dict(compile=dict(backend='eager'))})
    config = write('kd', dict(
        type='mmselfkd.DistillHook', teacher=tiny.teacher(8), losses=KD))
    printed, table = bench(config, write('tfd', TFD), '--iters', 1,
                           '--warmup', 0, '--teacher-options')
    assert list(table) == ['plain', 'kd', 'kd, bf16', 'kd, compiled', 'tfd']
    assert 'distance' not in table['kd']
    assert 1e-5 < number(table['kd, bf16']['distance']) < 0.1
    assert number(table['kd, compiled']['distance']) < 1e-5
    for name in ('kd, bf16', 'kd, compiled'):
        for column in ('ratio of its ms', 'ratio of the step'):
            assert number(table[name][column]) > 0
    assert printed.endswith("the plain student's modules, exactly\n")


def test_a_change_is_against_the_same_round():
    def variant(teaching, times, levels, **more):
        return step_variants.Variant(
            'x', None, teaching=teaching, times=times,
            taught_levels=[torch.tensor(level) for level in levels], **more)

    default = variant([4., 2.], [8., 8.], [[3., 4.], [1.]])
    changed = variant([2., 1.], [4., 8.], [[3., 4.5], [1.]], default=default)
    assert list(step_report.change_row(changed)) == [
        'x', '0.50 (0.50..0.50)', '0.75 (0.62..0.88)', '1e-01']


def test_no_options_without_a_pretrained_teacher(write, bench):
    with pytest.raises(SystemExit, match='--teacher-options: no config has a'):
        bench(write('tfd', TFD), write('plain'), '--teacher-options')


def test_every_option_is_one_of_a_frozen_teacher(tiny):
    options = step_variants.OPTIONS | step_variants.ON_A_GPU
    described = {
        FrozenTeacher(**tiny.teacher(), **changes).execution.describe()
        for changes in options.values()}
    assert len(described) == len(options) and '' not in described
    assert FrozenTeacher(**tiny.teacher()).execution.describe() == ''


@pytest.mark.parametrize('pair, size', [
    ('camvid', (120, 160)), ('pspnet', (512, 1024)),
    ('pspnet_small', (128, 256))])
def test_configs_of_the_step_cost(root, monkeypatch, pair, size):
    """Those of the README's table, of one pair at a time."""
    monkeypatch.setenv('PAIR', pair)
    names = set()
    for path in (root / 'benchmarks' / 'step_cost').glob('*.py'):
        cfg = Config.fromfile(path)
        assert cfg.model.data_preprocessor.size == size
        teachers = step_variants.pretrained_teachers(cfg)
        assert [t.checkpoint for t in teachers] == ['random'] * (
            path.stem != 'student')
        names.add(path.stem)
    assert {'student', 'kd', 'nfd', 'skd_pi_pa'} < names


def test_a_student_that_is_not_the_plain_one(write, bench, monkeypatch):
    monkeypatch.setattr(
        'mmselfkd.hooks.distill_hook.close_after_training',
        lambda *args: None)
    with pytest.raises(SystemExit, match='inference: .*tfd is not the plain'):
        bench(write('tfd', TFD), '--iters', 1, '--warmup', 0)


@pytest.mark.parametrize('args, message', [
    (['a.py', '--iters', '0'], 'argument --iters: 0: must be 1 or more'),
    (['a.py', '--warmup=-1'], 'argument --warmup: -1: must be 0 or more'),
    ([], 'required: config')])
def test_bad_arguments(bench, capsys, args, message):
    with pytest.raises(SystemExit):
        bench(*args)
    assert message in capsys.readouterr().err


def test_an_error_ends_every_run(tiny, write, bench, monkeypatch):
    """The runs are nested: none is left with hooks on its student."""
    kept = []

    def fail(variants, *_):
        kept.extend(variants)
        raise RuntimeError('in a step')

    monkeypatch.setattr(step_cost, 'measure', fail)
    with pytest.raises(RuntimeError, match='in a step'):
        bench(write('tfd', TFD))
    plain, tfd = (variant.loop.runner.model for variant in kept)
    assert not step_cost.differences(tfd, plain)


class MyOwn(DistillHook):
    pass


def test_what_is_distillation(tiny, tmp_path):
    HOOKS.register_module(module=MyOwn)
    try:
        ours = [TFD, dict(type='TFDHook'), dict(type=MyOwn),
                dict(type='MyOwn'), dict(type='TFDHook', _scope_='mmselfkd')]
        others = [dict(type='EMAHook'), dict(type='mmseg.NotThere'),
                  dict(type=Hook)]
        cfg = tiny.config(tmp_path, *others[:2], *ours, *others[2:])
        assert without_distillation(cfg).custom_hooks == others
        assert len(cfg.custom_hooks) == 8  # as it was
    finally:
        HOOKS.module_dict.pop('MyOwn')
    assert is_distillation(
        DistillHook(dict(type='EMATeacher'), KD), 'mmseg')
    cfg.pop('custom_hooks')
    assert without_distillation(cfg).custom_hooks == []


def test_same_student(tiny, tmp_path):
    def plain(**changes):
        return without_distillation(
            tiny.config(tmp_path, TFD, **changes))

    assert step_variants.same_student(
        plain(), plain(iters=9, val_cfg=None))
    for change in ({'width': 8}, {'train_dataloader.batch_size': 3},
                   {'optim_wrapper.optimizer.lr': 1.}):
        assert not step_variants.same_student(plain(), plain(**change))


def test_stripped(tiny, tmp_path):
    """Nothing but the steps: no logs, no validation, no other process."""
    cfg = tiny.config(
        tmp_path, TFD, resume=True, train_dataloader=dict(
            num_workers=2, persistent_workers=True, prefetch_factor=4),
        default_hooks=dict(
            timer=None, visualization=dict(type='mmseg.SegVisualizationHook')))
    before = copy.deepcopy(cfg)
    new = step_variants.stripped(cfg, tmp_path / 'else', 'a name')
    assert cfg.to_dict() == before.to_dict()
    assert new.val_cfg is new.val_dataloader is new.test_evaluator is None
    assert new.default_hooks == dict(logger=None, checkpoint=None, timer=None)
    expected = copy.deepcopy(before.train_dataloader)
    expected.num_workers = 0
    del expected.persistent_workers, expected.prefetch_factor
    assert new.train_dataloader == expected
    assert new.custom_hooks == [TFD] and new.resume is False
    assert (new.work_dir, new.experiment_name) == (str(tmp_path / 'else'),
                                                   'a name')


@pytest.mark.parametrize('on, rounds, length, expected', [
    ([0, 1, 1, 1, 1, 1, 1, 1], 3, 5, 2),  # all on: the end of the run
    ([1, 1, 1, 0, 0, 0, 0, 0], 3, 5, 0),
    ([0, 0, 0, 0, 0, 0, 0, 0], 3, 5, 2),
    ([1, 2, 2, 1, 1, 1, 1, 1], 2, 6, 1),
    ([0, 0, 2, 2, 2, 2, 2, 2], 6, 2, 0)])  # longer than the run
def test_first_iteration(on, rounds, length, expected):
    assert step_cost.first_iteration(on, rounds, length) == expected


class FakeLoop:
    """Says on which batch it makes a step, and spoils the batch."""

    def __init__(self, name, calls):
        model = nn.Linear(1, 1)
        model.data_preprocessor = lambda batch, training: dict(
            inputs=torch.zeros(batch))
        optimizer = SimpleNamespace(state={
            model.bias: dict(step=0, average=torch.zeros(3))})
        self.runner = SimpleNamespace(
            model=model, optim_wrapper=SimpleNamespace(optimizer=optimizer))
        self.dataloader_iterator = iter([[n] for n in range(9)])
        self.name, self.calls, self.iter = name, calls, 40

    def run_iter(self, batch):
        self.calls.append(self.name + str(batch.pop()))
        self.iter += 1


def test_rounds(monkeypatch):
    """In rotating order, each on the batch of the round as it came."""
    calls, sizes = [], iter(range(9))
    variants = [
        step_variants.Variant(name, None, loop=FakeLoop(name, calls))
        for name in 'abc']
    for variant in variants:
        variant.leader = variants[0]
    variants[2].forwards = [lambda: [calls.append('teacher')]]
    monkeypatch.setattr(step_cost, 'peak_bytes',
                        lambda work, device: (work(), next(sizes))[1])
    step_cost.measure(variants, warmup=1, iters=2)
    assert ' '.join(calls) == (
        'a0 b0 c0 teacher b1 c1 teacher a1 c2 teacher a2 b2 a3 b3 c3 teacher')
    stays = 4 * (2 + 3)  # bytes of a Linear(1, 1) and of its optimizer
    for place, variant in enumerate(variants):
        assert variant.began == 41
        assert len(variant.times) == len(variant.teaching) == 2
        assert variant.resident == [stays]
        assert variant.peak == [2 * place]
        assert variant.taught_peak == [2 * place + 1]
    assert variants[0].shape == (3,)


def test_remember():
    """The last call once more, without holding on to the student's graph."""
    calls = []
    output = TeacherOutput(dict(logits=[1, 2], neck=[3]),
                           join=lambda: calls.append('joined'))
    teacher = SimpleNamespace(
        teach=lambda *args: calls.append(args) or output)
    again = step_cost.remember(teacher)
    assert again() == []  # not asked yet
    assert not calls
    context = BatchContext(
        None, torch.zeros(1), None, dict(logits=[1]), print)
    assert teacher.teach(context, {'logits'}) is output
    assert again() == [1, 2, 3]
    assert again() == []  # not asked since
    assert calls.pop() == 'joined'
    (first, _), (second, sources) = calls
    assert first is context and sources == {'logits'}
    assert second.inputs is context.inputs and not second.levels
    assert second.run_student is None


def test_told_and_table():
    assert measuring.told([1., 2., 3., 4., 10.], 1) == '3.0 (2.0..4.0)'
    assert measuring.told([1.234], 2) == '1.23 (1.23..1.23)'
    assert measuring.table(['a', 'b'], [['1', '2']]) == (
        '| a | b |\n| - | - |\n| 1 | 2 |\n')


def test_ratios_are_those_of_the_rounds():
    """Not of the medians; and the floor is that of the same round."""
    plain = SimpleNamespace(times=[1., 10., 4.], resident=[2**20] * 3,
                            peak=[2**21, 2**22, 2**21])
    variant = step_variants.Variant(
        'x', None, plain=plain, forwards=[None], losses=2, extra=1234,
        times=[3., 10., 8.], teaching=[1., 0., 1.], active=[2, 1, 2],
        resident=[2**21] * 3, peak=[2**22, 2**22, 2**23],
        taught_peak=[3 * 2**20] * 3, weights=2**20)
    row = dict(zip(step_report.STEPS, step_report.step_row(variant)))
    assert row['ms'].startswith('8.0 (')
    assert row['plain steps a step'] == '2.00 (1.50..2.50)'
    assert row['floor ms'].startswith('5.0 (')
    assert row['ratio to floor'] == '1.50 (1.25..1.55)'
    assert row['teacher ms'] == '1.0 (0.5..1.0)'
    assert row['losses on'] == '1 of 2'
    row = dict(zip(
        step_report.MEMORY, step_report.memory_row(variant)))
    assert row['extra trained parameters'] == '1,234'
    assert row['MiB'] == '6.0 (6.0..8.0)'
    assert row['teacher MiB'] == '3.0 (3.0..3.0)'
    assert row['floor MiB'] == '5.0 (5.0..5.5)'  # 1 + 1 + the larger peak
    assert row['ratio to floor'] == '1.20 (1.10..1.60)'


def test_peak_bytes():
    """What lies there before and what has gone does not count."""
    before = torch.ones(5 * 2**20)

    def work():
        first = torch.ones(2**20)
        del first
        second = torch.ones(3 * 2**18)
        return second * before[:3 * 2**18]

    for _ in range(2):
        peak = step_cost.peak_bytes(work, torch.device('cpu'))
        assert peak == 6 * 2**20


def test_differences():
    def model():
        return nn.Sequential(nn.Linear(2, 2), nn.ReLU())

    assert step_cost.differences(model(), model()) == []
    for change in (lambda m: m.add_module('x', nn.Identity()),
                   lambda m: m[1].register_forward_hook(lambda *_: None),
                   lambda m: setattr(m[0], 'bias', None)):
        changed = model()
        change(changed)
        assert step_cost.differences(changed, model())
