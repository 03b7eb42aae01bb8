"""A few random configs: ``python -m tests.fuzz`` makes any number of them."""
import fuzz
import pytest

SEED, VALID, INVALID = 0, 8, 30


@pytest.fixture(scope='module', autouse=True)
def count():
    print(f'\nfuzz: seed {SEED}, {VALID} valid, {INVALID} invalid')


@pytest.mark.parametrize('make, number', [
    *((fuzz.make_valid, n) for n in range(VALID)),
    *((fuzz.make_invalid, n) for n in range(INVALID))])
def test_trains_or_is_refused(make, number, tmp_path):
    case = make(SEED, number, str(tmp_path))
    problems = fuzz.problems_of(case, tmp_path)
    assert not problems, '\n'.join([
        f'python -m tests.fuzz --seed {SEED} --only {case.label}  '
        f'# {case.what}', fuzz.replay(case), *problems])
