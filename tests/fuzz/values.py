"""Values of the arguments of a class: those it takes, those it refuses."""
import copy
import functools
import inspect
import itertools
import re
import types
import typing
from dataclasses import dataclass
from math import inf, nan
from typing import Any

NUMBERS = [0, 1, 2, 5, 100, -1, -100, 255, 0., 0.1, 0.5, 0.9, 1., 1.5, 2.,
           8., 1e-3, -0.5, nan, inf, -inf, 1e30, 1e-45, 10**400]
OTHERS = [None, True, False, '', '1', 'x', [], {}, [1.], dict(x=1)]
LISTS = [[1], [1, 2], [0], [1, 1], [2, 1], [1.5], ['1'], [True], [None]]
WHOLE = 10**9  # no run and no layer bears more

# Arguments of which a class keeps what somebody else refuses later, or what
# this machine cannot do: legal values, and others.
LATER: dict[str, tuple[list, list]] = dict(
    optimizer=([
        None, dict(type='Adam', lr=1e-4), dict(type='SGD', lr=1e-3)
    ], [
        5, 'SGD', [], True, nan, dict(lr=0.1), dict(type='SDG', lr=0.1),
        dict(type=None, lr=0.1), dict(type='SGD', lr=-1.),
        dict(type='SGD', lr='x'), dict(type='SGD', lr=nan),
        dict(type='Adam', lr=inf), dict(type='SGD', lr=0.1, momentm=0.9),
        dict(type='Adam', betas=5), dict(type='LBFGS')]),
    compile=([False, dict(backend='eager'), dict(
        backend='eager', dynamic=False)], [
        None, 'yes', 1, nan, [], ['eager'], dict(backend='egaer'),
        dict(backend=5), dict(mode='fast'), dict(options=dict(x=1)),
        dict(model=1), dict(bakend='eager')]),
    side_stream=([False], [None, 'yes', 1, nan, [], {}, True]))  # on a CPU


@dataclass(frozen=True)
class Argument:
    """What an argument may be.

    Attributes:
        legal (list): Values that the class takes.
        illegal (list): Values that must end in an error.
    """
    legal: list
    illegal: list


@functools.cache
def arguments(cls: type, *leave_out: str) -> dict[str, Argument]:
    """Of the arguments of a class, but those that are left out.

    A value of another type than the annotation is illegal. Of the others
    the class says it, when it is called with each of them.
    """
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD,
                                  parameter.VAR_POSITIONAL)}
    names = [name for name in parameters if name not in leave_out]
    candidates = {
        name: _candidates(cls, name, parameters[name].annotation)
        for name in parameters}
    required = _required(cls, parameters, candidates)
    found = {}
    for name in names:
        if name in LATER:
            found[name] = Argument(*LATER[name])
            continue
        types_ = _types(parameters[name].annotation)
        legal, illegal = [], []
        for value in candidates[name]:
            takes = _fits(value, types_) and _accepts(
                cls, {**required, name: value})
            (legal if takes else illegal).append(value)
        found[name] = Argument(legal, illegal)
    return found


def some(rng, cls: type, *leave_out: str) -> dict[str, Any]:
    """Legal values for about half of the arguments."""
    return {name: copy.deepcopy(rng.choice(argument.legal))
            for name, argument in arguments(cls, *leave_out).items()
            if argument.legal and rng.random() < 0.5}


def one_illegal(rng, cls: type, *leave_out: str) -> tuple[str, Any]:
    """An argument of the class, and a value that it must refuse."""
    name, argument = rng.choice(list(arguments(cls, *leave_out).items()))
    return name, copy.deepcopy(rng.choice(argument.illegal))


def misspelt(rng, name: str) -> str:
    place = rng.randrange(len(name))
    return rng.choice([name[:place] + name[place + 1:],
                       name[:place] + 'q' + name[place:]])


def _types(annotation: Any) -> list[Any]:
    """The members of a union, or the one type."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [one for part in typing.get_args(annotation)
                for one in _types(part)]
    return [annotation]


def _fits(value: Any, types_: list[Any]) -> bool:
    """Whether a value is of one of the types."""
    for kind in types_:
        origin = typing.get_origin(kind) or kind
        if origin is typing.Literal:
            if value in typing.get_args(kind):
                return True
        elif origin is float:
            if isinstance(value, (int, float)) and not isinstance(
                    value, bool):
                return True
        elif origin is int:
            if isinstance(value, int) and not isinstance(value, bool):
                return True
        elif origin in (None, type(None)):
            if value is None:
                return True
        elif inspect.isclass(origin) and isinstance(value, origin):
            return True
    return False


def _candidates(cls: type, name: str, annotation: Any) -> list[Any]:
    types_ = _types(annotation)
    values = [*NUMBERS, *OTHERS]
    if float not in types_:  # no whole number is refused for its size
        values = [v for v in values
                  if not isinstance(v, int) or abs(v) < WHOLE]
    if any(typing.get_origin(kind) is list for kind in types_):
        values += LISTS
    if str in types_ or any(
            typing.get_origin(kind) is typing.Literal for kind in types_):
        words = _words(cls, name, types_)
        values += [*words, *(word.upper() for word in words),
                   *(word[1:] for word in words)]
    for kind in types_:
        if inspect.isclass(kind) and kind.__module__.startswith('mmselfkd'):
            values += _described(kind)
    return values


def _words(cls: type, name: str, types_: list[Any]) -> list[str]:
    """The words that an argument takes, by the error of another one."""
    words = [word for kind in types_
             if typing.get_origin(kind) is typing.Literal
             for word in typing.get_args(kind)]
    try:
        cls(**{name: 'no such word'})
    except ValueError as error:
        words += re.findall(r"'([\w-]+)'", str(error).split('but got')[0])
    except TypeError:  # another argument is missing
        pass
    return [word for word in dict.fromkeys(words) if isinstance(word, str)]


def _described(cls: type) -> list[dict]:
    """Configs of an option, right and wrong."""
    inside = arguments(cls)
    described = [dict(type=cls.__name__), dict(type=cls.__name__[1:]),
                 dict(type=cls.__name__, nothing=1),
                 {name: argument.legal[0] for name, argument in inside.items()}
                 or dict(nothing=1)]
    for name, argument in inside.items():
        described += [dict(type=cls.__name__, **{name: value})
                      for value in argument.legal[:2] + argument.illegal[::3]]
    return described


def _required(cls: type, parameters: dict[str, inspect.Parameter],
              candidates: dict[str, list]) -> dict[str, Any]:
    """The first values that a class takes of what it cannot do without."""
    names = [name for name, parameter in parameters.items()
             if parameter.default is parameter.empty]
    for values in itertools.product(*(
            [v for v in candidates[name]
             if _fits(v, _types(parameters[name].annotation))]
            for name in names)):
        given = dict(zip(names, values))
        if _accepts(cls, given):
            return given
    raise AssertionError(f'nothing that {cls.__name__} takes is known')


def _accepts(cls: type, given: dict[str, Any]) -> bool:
    try:
        cls(**copy.deepcopy(given))
    except (ValueError, TypeError):
        return False
    return True
