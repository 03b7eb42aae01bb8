"""The price list of losses: every plain equation is the loss's own."""
import sys

import losses
import pytest
import torch

CPU = torch.device('cpu')
SMALL = (2, 24, 8, 10)


def small(case):
    size = (*case.sizes[0][:2], 12, 14)
    return losses.Case(**dict(vars(case), sizes=(size, )))


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the tool; returns what it printed and its table by row."""

    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['losses.py', *map(str, args)])
        losses.main()
        out = capsys.readouterr().out
        header, _, *rows = [
            [cell.strip() for cell in line.strip('|').split('|')]
            for line in out.splitlines() if line.startswith('|')]
        return out, [dict(zip(header, row)) for row in rows]

    return run


@pytest.mark.parametrize('case', losses.CASES,
                         ids=lambda case: case.name)
def test_loss_and_plain_equation_agree(case):
    """In value and gradient, far from the teacher and near it."""
    result, = losses.measure_case(small(case), CPU, 1, True)
    value, gradient, _, near = result.errors
    assert value < 1e-5 and gradient < 1e-4 and (
        case.kinked or near < 1e-3)
    assert result.memory > 0 and result.naive_memory > 0
    assert len(result.times) == len(result.naive_times) == 1


def test_table_and_plot(run, monkeypatch, tmp_path):
    cases = [small(case) for case in losses.CASES
             if case.name in ('KDLoss', 'TFDInterLoss', 'NFDLoss')]
    monkeypatch.setattr(losses, 'CASES', cases)
    out = tmp_path / 'new' / 'losses.md'
    printed, rows = run('KD', 'TFD', '--iters', 2, '--out', out,
                        '--device-note', 'in a test')
    assert [row['loss'] for row in rows] == ['KDLoss', 'TFDInterLoss']
    assert out.read_text() in printed
    assert printed.count('2 rounds; wall time; seed 0; in a test') == 1
    assert out.with_suffix('.png').read_bytes()[1:4] == b'PNG'
    assert [row['maps'] for row in rows] == ['2x19x12x14', '2x128x12x14']
    assert all(float(row['value']) < 1e-5 for row in rows)
    # maps of two sizes are never near each other
    assert rows[0]['value, near'] != '-' == rows[1]['value, near']


def test_what_does_not_fit_is_told_not_run(monkeypatch):
    """A plain form that is quadratic in the positions, from its last size."""
    case, = (case for case in losses.CASES
             if case.name == 'PairwiseLoss')
    wide = (2, 24, 16, 10)
    case = losses.Case(**dict(vars(case), sizes=(SMALL, wide)))
    first, second = losses.measure_case(case, CPU, 1, True)
    assert second.naive_times and second.errors
    monkeypatch.setattr(losses, 'LIMIT', 2 * first.naive_memory)
    first, second = losses.measure_case(case, CPU, 1, True)
    assert first.naive_times and not second.naive_times
    assert second.naive_memory == 4 * first.naive_memory
    cells = dict(zip(losses.HEADER, losses.row(second)))
    assert cells['naive MiB'].startswith('not run: about ')
    assert cells['naive ms'] == cells['times faster'] == cells['value'] == '-'


def test_maps_are_the_same_numbers():
    case = losses.CASES[0]
    for near in (False, True):
        single, double = (losses.Maps(case, SMALL, CPU, near, dtype)
                          for dtype in (torch.float32, torch.float64))
        for one, other in zip(single, double):
            assert torch.equal(one.double(), other.double())
    distance = (single.student - single.teacher).abs() / single.teacher.abs()
    assert 0 < distance.max() < 10 * losses.NEAR


def test_a_loss_that_is_not_there(run):
    with pytest.raises(SystemExit, match='no loss begins with XY; there are '
                       'KDLoss, '):
        run('XY')
