"""What is searched: of every preset, of a user's own hook, by --space."""
import methods
import optuna
import pytest

from mmselfkd import ConfigError, DistillHook, NFDHook, SKDHook, TFDHook
from mmselfkd.comparison.search_space import (
    PRESET,
    SearchSpace,
    is_integer_range,
)

WEIGHT = 'losses.loss_nfd.loss_weight'
SHAPE = 'losses.*.schedule'


@pytest.mark.parametrize('name', [
    name for name, hook in methods.methods().items()
    if hook is not DistillHook])
def test_every_preset_ships_a_space_that_it_accepts(name):
    """The space builds the hook with each end; the preset lies within it."""
    hook = methods.methods()[name]
    space = SearchSpace(hook)
    assert space.entries == hook.search_space
    weights = {key.split('.')[1] for key in space.entries
               if key.endswith('.loss_weight')}
    assert weights == set(hook.preset)
    for key, entry in space.entries.items():
        assert not is_integer_range(entry)
        loss, option = key.split('.')[1:]
        if isinstance(entry, tuple) and option == 'loss_weight':
            assert hook.preset[loss].get(option, 1.) == space.shipped[key]


def test_values_as_arguments():
    space = SearchSpace(NFDHook)
    assert space.shipped == {WEIGHT: 2.0, SHAPE: PRESET}
    drawn = space.suggest(optuna.trial.FixedTrial(
        {WEIGHT: 0.323456, SHAPE: 'falling'}))
    assert drawn[WEIGHT] == 0.323456
    assert space.options(drawn) == {
        WEIGHT: 0.323, 'losses.loss_nfd.schedule.type': 'LinearRamp',
        'losses.loss_nfd.schedule.start_factor': 1.0,
        'losses.loss_nfd.schedule.end_factor': 0.0}
    assert space.options(space.shipped) == {}


def test_one_schedule_for_all_losses():
    space = SearchSpace(TFDHook)
    assert space.options({SHAPE: 'constant'}) == {
        'losses.loss_inter.schedule': None,
        'losses.loss_intra.schedule': None}
    term, = space.build({
        **space.options({SHAPE: 'constant'}),
        'losses.loss_intra': None}).plan.losses
    assert term.schedule is None


def test_the_sampler_sees_a_logarithmic_scale():
    study = optuna.create_study()
    trial = study.ask()
    SearchSpace(NFDHook).suggest(trial)
    assert trial.distributions[WEIGHT] == (
        optuna.distributions.FloatDistribution(0.2, 20, log=True))
    assert trial.distributions[SHAPE].choices == (PRESET, 'rising', 'falling')


def test_what_the_user_has_set_is_not_searched():
    space = SearchSpace(SKDHook, fixed={
        'losses.loss_ho': None, 'losses.loss_pi.loss_weight': 5})
    assert set(space.entries) == {
        'losses.loss_pi.temperature', 'losses.loss_pa.loss_weight'}
    hook = space.build({'losses.loss_pi.temperature': 2.0})
    assert {loss.name: loss.loss_weight for loss in hook.plan.losses} == dict(
        loss_pi=5, loss_pa=10.0)


@pytest.mark.parametrize('fixed', [
    {'losses.loss_nfd.schedule': None},
    {'losses.loss_nfd.schedule.type': 'LinearRamp'}])
def test_a_schedule_that_the_user_has_set(fixed):
    assert set(SearchSpace(NFDHook, fixed=fixed).entries) == {WEIGHT}


def test_a_schedule_of_one_loss_that_the_user_has_set():
    space = SearchSpace(TFDHook, fixed={'losses.loss_inter.schedule': None})
    assert space.options({SHAPE: 'constant'}) == {
        'losses.loss_intra.schedule': None}


@pytest.mark.parametrize('entry', [(.1, 10.), [.1, 1., 10.]])
def test_one_weight_for_losses_of_different_weights(entry):
    weights = {'losses.*.loss_weight': entry}
    with pytest.raises(ConfigError, match=(
            r'loss_pi.loss_weight \(10.0\), losses.loss_pa.loss_weight '
            r'\(10.0\), losses.loss_ho.loss_weight \(0.1\)')):
        SearchSpace(SKDHook, weights)
    space = SearchSpace(SKDHook, weights, {'losses.loss_ho': None})
    assert space.shipped == {'losses.*.loss_weight': 10.}
    assert space.options({'losses.*.loss_weight': 1.}) == {
        'losses.loss_pi.loss_weight': 1., 'losses.loss_pa.loss_weight': 1.}


def test_integers():
    """Two integers are a range of integers; other numbers are floats."""
    class Between(NFDHook):
        preset = dict(loss_nfd=dict(NFDHook.preset['loss_nfd'],
                                    loss_weight=2.5))

    key = 'losses.loss_ho.width'
    space = SearchSpace(SKDHook, {key: (8, 128)})
    study = optuna.create_study()
    study.enqueue_trial(space.shipped)
    assert space.options(space.suggest(study.ask())) == {}
    value = space.suggest(study.ask())[key]
    assert isinstance(value, int) and 8 <= value <= 128
    space.build({key: value})
    with pytest.raises(ConfigError, match='width must be an integer.* 8.0'):
        SearchSpace(SKDHook, {key: (8, 128.)})
    with pytest.raises(ConfigError, match=r'\(1, 9\) does not hold 2.5'):
        SearchSpace(Between, {WEIGHT: (1, 9)})


def test_defaults_of_the_class_are_values_of_the_preset():
    space = SearchSpace(NFDHook, {'losses.loss_nfd.dims': ['hw', 'c']})
    assert space.shipped == {'losses.loss_nfd.dims': 'hw'}


def test_a_hook_of_the_users_own():
    class MyHook(DistillHook):
        preset = dict(loss_mine=dict(type='KDLoss', source='logits'))
        search_space = {'losses.loss_mine.loss_weight': (0.5, 2)}

    assert SearchSpace(MyHook).shipped == {'losses.loss_mine.loss_weight': 1.}


@pytest.mark.parametrize('entries, message', [
    ({'losses.loss_nfd.loss_wieght': (1, 2)},
     "'loss_wieght'; nearest: 'loss_weight'"),
    ({'losses.loss_ndf.loss_weight': (1, 2)}, "nearest: 'loss_nfd'"),
    ({'loses.loss_nfd.loss_weight': (1, 2)}, "nearest: 'losses'"),
    ({WEIGHT: (3, 4)}, r'\(3, 4\) does not hold 2.0'),
    ({WEIGHT: (4, 1)}, 'low < high'), ({WEIGHT: (0, 4)}, '0 < low'),
    ({WEIGHT: (1, 2, 3)}, r'\(low, high\) are needed'),
    ({WEIGHT: ['2', 'a']}, "loss_nfd.loss_weight.*'2'"),
    ({WEIGHT: [2.0]}, 'a list of two values or more'),
    ({WEIGHT: 2.0}, 'a range'),
    ({SHAPE: [None, dict(type='LinearRamp')]}, 'give others names'),
    ({SHAPE: dict(up=dict(type='LinearRmap'))}, "nearest: 'LinearRamp'"),
    ({'losses.loss_nfd.dims': ['c', 'nhw']}, "does not hold 'hw'"),
    ({}, 'nothing to search.*--space')])
def test_bad_input(entries, message):
    with pytest.raises(ConfigError, match=message):
        SearchSpace(NFDHook, entries, key='--space')
