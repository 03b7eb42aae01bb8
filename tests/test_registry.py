"""Names, and the errors of what cannot be built."""
import inspect

import pytest
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import DefaultScope

from mmselfkd import ConfigError, NFDHook, losses, schedules
from mmselfkd.errors import describe, nearest
from mmselfkd.registry import MODELS, SCHEDULES, TEACHERS, build_part


def test_every_loss_and_schedule_is_registered():
    """But for the base classes, which compute nothing."""
    names = [name for name in losses.__all__
             if inspect.isclass(getattr(losses, name))]
    bases = {'DistillationLoss', 'AdversarialLoss'}
    assert bases < set(names)
    for name in names:
        found = MODELS.get(name)
        assert found is (None if name in bases else getattr(losses, name))
        if name not in bases:
            assert MMENGINE_MODELS.get(f'mmselfkd.{name}') is found
    for name in schedules.__all__:
        assert SCHEDULES.get(name) is getattr(schedules, name)


def test_hooks_stand_in_the_root_registry_too():
    assert MMENGINE_HOOKS.get('NFDHook') is NFDHook
    assert MMENGINE_HOOKS.get('mmselfkd.NFDHook') is NFDHook


def test_a_misspelt_hook_has_a_nearest_one():
    with pytest.raises(ConfigError, match=(
            "custom_hooks: type = 'mmselfkd.NFDHok'.*nearest: 'NFDHook'")):
        MMENGINE_HOOKS.build(dict(type='mmselfkd.NFDHok'))


def test_a_class_of_the_users_own_scope_is_found():
    from mmseg.registry import MODELS as MMSEG_MODELS

    @MMSEG_MODELS.register_module(force=True)
    class UsersLoss:
        pass

    try:
        with DefaultScope.overwrite_default_scope('mmseg'):
            assert isinstance(
                build_part(dict(type='UsersLoss'), MODELS, 'k'), UsersLoss)
        with DefaultScope.overwrite_default_scope(None):
            part = build_part(dict(type='mmseg.UsersLoss'), MODELS, 'k')
            assert isinstance(part, UsersLoss)
    finally:
        MMSEG_MODELS.module_dict.pop('UsersLoss')


def test_scope_left_by_inheritance_is_no_argument():
    assert build_part(
        dict(type='KDLoss', _scope_='mmselfkd'), MODELS, 'k').temperature == 1


@pytest.mark.parametrize('cfg, says', [
    (5, 'k = 5'), ({}, 'the key `type`'),
    (dict(type='KDLos'), "k.type = 'KDLos'"),
    (dict(type='a.b.c.Gone'), "k.type = 'a.b.c.Gone'"),
    (dict(type='KDLoss', ignore=3), 'k.ignore = 3'),
    (dict(type='KDLoss', temperature='hot'), "'hot'"),
    (dict(type='KDLoss', tau=2.), "nearest: 'temperature'"),
])
def test_errors_name_the_key(cfg, says):
    with pytest.raises(ConfigError) as error:
        build_part(cfg, MODELS, 'k')
    assert says in str(error.value)


def test_missing_argument():
    with pytest.raises(ConfigError, match='k.end is missing'):
        build_part(dict(type='Stop'), SCHEDULES, 'k')


def test_an_error_that_has_the_key_already_has_it_once():
    with pytest.raises(ConfigError) as error:
        build_part(dict(type='EMATeacher', interval=0), TEACHERS, 'k.teacher',
                   offered=dict(key='k.teacher'))
    assert str(error.value).startswith('k.teacher.interval ')


def test_what_is_offered_is_given_where_it_is_taken():
    class Takes:
        def __init__(self, key='none'):
            self.key = key

    class Refuses:
        pass

    for cls, key in ((Takes, 'k'), (Refuses, None)):
        built = build_part(dict(type=cls), MODELS, 'k', offered=dict(key='k'))
        assert getattr(built, 'key', None) == key


def test_an_error_is_described_with_its_name_where_that_says_more():
    assert describe(ValueError('no')) == describe(TypeError('no')) == 'no'
    assert describe(KeyError('no')) == "KeyError: 'no'"


def test_what_is_named_in_place_of_a_misspelt_one():
    names = ['neck', 'neck2', 'decode_head', 'backbone']
    assert nearest('nek', names, most=1) == "; nearest: 'neck'"
    assert nearest('nek', names, most=2) == "; nearest: 'neck', 'neck2'"
    assert nearest('xyz', ['b', 'a']) == "; allowed: 'a', 'b'"
    assert nearest('xyz', []) == '; allowed: nothing'
    assert nearest('xyz', names, examples=['logits']) == (
        "; allowed: 'logits' and the modules inside")
