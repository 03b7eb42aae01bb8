"""Ten iterations of every preset and kind of head compute what they did.

Of values that are meant to change ``recorded_runs.py`` makes a new record.
"""
import pytest
import recorded_runs
import torch

RECORDED = recorded_runs.load()
RECORD = 'python -m tests.recorded_runs'


@pytest.mark.skipif(torch.cuda.is_available(),
                    reason='a processor computed the values')
@pytest.mark.parametrize('case', recorded_runs.CASES)
def test_losses_are_the_recorded_ones(case, detectors):
    assert case in RECORDED, f'{RECORD} {case} makes the record'
    found = recorded_runs.differences(
        RECORDED[case], recorded_runs.run(case))
    assert not found, '\n'.join([
        f'where this is meant: {RECORD} {case}', *found])


def test_there_is_a_record_of_no_other():
    assert set(RECORDED) <= set(recorded_runs.CASES)


def test_what_differs_is_found():
    recorded = dict(loss=[1., 2.], agreement=[0.5, None], gone=[1., 1.])
    now = dict(loss=[1., 2.01], agreement=[0.5, None], new=[1., 1.])
    assert recorded_runs.differences(recorded, recorded) == []
    assert [line.split(':')[0] for line in recorded_runs.differences(
        recorded, now)] == ['gone', 'new', 'loss, iteration 1']
    shares = {'distill.agreement': [0.5, None]}
    other = {'distill.agreement': [0.51, None]}
    assert recorded_runs.differences(shares, other) == []
    assert recorded_runs.differences(
        shares, {'distill.agreement': [0.51, 0.5]})
