"""Puts every shipped head of mmseg and mmdet through every method.

A cell is two training steps of a narrowed shipped config
(``shipped_heads.py``) on toy scenes, by a real Runner. It ends as

- trained: both steps have finite losses, the method's own among them;
- refused: a ConfigError before the first iteration. What its message names
  is then tried, step by step, until the run trains: else it is a dead end;
- a fault: anything else.

``python benchmarks/hosts_table.py`` runs what is not yet in ``--results``
and writes ``docs/hosts.md``. What is in neither ``--results`` nor ``--heads``
and ``--methods`` stays as the page has it.
"""
import argparse
import ast
import copy
import json
import math
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'benchmarks'))
import shipped_heads  # noqa: E402
from shipped_heads import SHIPPED, WIDE, Shipped  # noqa: E402

from mmselfkd import ConfigError  # noqa: E402

RESULTS = ROOT / 'work_dirs' / 'hosts_table.jsonl'
PAGE = ROOT / 'docs' / 'hosts.md'
ATTEMPTS = 6  # at what messages name, one after the other
TRAINED, REFUSED, DEAD_END, CRASH, NOT_RUN = (
    'trained', 'refused', 'dead end', 'crash', 'not run')


def _taught(name: str) -> Callable[[Shipped], dict]:
    """A method with the same model, wider and untrained, as its teacher."""
    return lambda shipped: dict(
        type=f'mmselfkd.{name}', teacher=dict(
            config=dict(model=shipped.model(WIDE),
                        default_scope=shipped.host),
            checkpoint='random'))


def _alone(name: str, *ramped: str) -> Callable[[Shipped], dict]:
    """A method without a teacher; of two steps none is left to a ramp."""
    return lambda shipped: dict(type=f'mmselfkd.{name}', losses={
        loss: dict(schedule=None) for loss in ramped})


METHODS = dict(
    SKD=_taught('SKDHook'), NFD=_taught('NFDHook'), ICSD=_taught('ICSDHook'),
    AICSD=_taught('AICSDHook'), KADTD=_taught('KADTDHook'),
    EMA=_alone('KADTDHook'), FRSKD=_alone('FRSKDHook', 'loss_at', 'loss_kd'),
    MixSKD=_alone('MixSKDHook'), TFD=_alone('TFDHook'),
    AttnFD=_taught('AttnFDHook'), CIRKD=_taught('CIRKDHook'),
    CWD=_taught('CWDHook'), DIST=_taught('DISTHook'),
    FitNets=_taught('FitNetsHook'), IFVD=_taught('IFVDHook'),
    MGD=_taught('MGDHook'), SRD=_taught('SRDHook'),
    PKD=_taught('PKDHook'), FGD=_taught('FGDHook'), LD=_taught('LDHook'),
    CrossKD=_taught('CrossKDHook'))


class Cell(NamedTuple):
    """How a head and a method went.

    Attributes:
        head (str): Key of :data:`SHIPPED`.
        method (str): Key of :data:`METHODS`.
        outcome (str): One of the words above.
        message (str): Of the first error.
        way (str): What of it worked.
        terms (dict[str, float]): The logged losses of the method.
        seconds (float): For all of it.
    """
    head: str
    method: str
    outcome: str
    message: str = ''
    way: str = ''
    terms: dict[str, float] = {}
    seconds: float = 0.


class NoWay(Exception):
    """Nothing that a message names works."""


class Recorder(Hook):
    """Keeps what every step logged."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def after_train_iter(self, runner: Any, batch_idx: int,
                         data_batch: Any = None,
                         outputs: Any = None) -> None:
        self.steps.append({k: float(v) for k, v in outputs.items()})


def train(shipped: Shipped, hook: dict, *others: Hook,
          **changes: Any) -> list[dict[str, float]]:
    """What the two steps of a run with ``hook`` log.

    Args:
        shipped (Shipped): The student.
        hook (dict): Config of a distillation hook.
        others (Hook): Registered too.
        changes: Merged into the config of the run.

    Raises:
        ConfigError: Before the first iteration.
    """
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(
            Config, 'pretty_text', ''):  # laying it out takes longer
        cfg = shipped_heads.config(folder, shipped, hook, **changes)
        cfg.experiment_name = f'{time.time()}'
        runner = Runner.from_cfg(cfg)
        for other in (*others, recorder):
            runner.register_hook(other)
        try:
            runner.train()
        except ConfigError as error:
            if recorder.steps:
                raise RuntimeError('refused after an iteration') from error
            raise
    for step in recorder.steps:
        bad = [name for name, value in step.items()
               if not math.isfinite(value)]
        if bad:
            raise RuntimeError(f'not finite: {bad}')
    if not any('distill' in name for name in recorder.steps[-1]):
        raise RuntimeError('nothing was distilled')
    return recorder.steps


def attempt(shipped: Shipped, hook: dict
            ) -> tuple[dict[str, float], ConfigError | None]:
    """What the last step logs, or why there is none."""
    try:
        return train(shipped, hook)[-1], None
    except ConfigError as error:
        if isinstance(error.__cause__, ImportError):
            raise error.__cause__ from None
        return {}, error


def run_cell(head: str, method: str) -> Cell:
    """Run a head with a method, and after a refusal what it names."""
    start = time.time()
    shipped = SHIPPED[head]
    hook = METHODS[method](shipped)
    message, ways = '', []
    try:
        step, error = attempt(shipped, hook)
        message = str(error or '')
        while error is not None:
            if len(ways) == ATTEMPTS:
                raise NoWay
            hook, way, step, error = _improved(shipped, hook, str(error))
            ways.append(way)
    except NoWay:
        outcome, step = DEAD_END, {}
    except ImportError as error:  # what a head needs beside the host
        outcome, message, step = NOT_RUN, str(error), {}
    except Exception as error:  # any fault of ours or of the host
        outcome, step = CRASH, {}
        frame = traceback.extract_tb(error.__traceback__)[-1]
        message = (f'{message} {type(error).__name__}: {error} '
                   f'({Path(frame.filename).name}:{frame.lineno})')
    else:
        outcome = REFUSED if message else TRAINED
    return Cell(head, method, outcome, message, ', '.join(ways),
                {name: value for name, value in step.items()
                 if name.startswith('distill.')}, time.time() - start)


# -- the way forward that a message names ------------------------------------

_OPTION = re.compile(r'\b([a-z_]+)=(?=[\[\'\dNd])')


def suggestions(message: str) -> Iterator[dict[str, Any]]:
    """What a message says to write: ``name=value`` or ``use 'source'``.

    Each is a dict of what is written together; the last one, if there is
    one, a method to use instead.
    """
    hint = message.partition('; ')[2]
    pairs = [dict(type=loss, source=source) for loss, source in re.findall(
        r"type='(\w+)' with source='([\w.\[\]-]+)'", hint)]
    position, found = 0, []
    while match := _OPTION.search(hint, position):
        position = match.end()
        literal = _literal(hint[position:])
        if literal is not None:
            value, length = literal
            position += length
            found.append({match[1]: value})
    yield from [one for one in found if not any(
        one.items() <= both.items() for both in pairs)]
    yield from pairs
    for source in re.findall(r"\buse '(\w+)'", hint):
        yield dict(source=source)
    method = re.search(r'such as (\w+Hook)', hint)
    if method:
        yield dict(hook=method[1])


def _literal(text: str) -> tuple[Any, int] | None:
    """The first Python literal, or call of ``dict``, and its length."""
    for end in range(1, len(text) + 1):
        try:
            node = ast.parse(text[:end], mode='eval').body
        except SyntaxError:
            continue
        if isinstance(node, ast.Name) and node.id in ('d', 'di', 'dic',
                                                      'dict'):
            continue
        if text[end:end + 1].isalnum():
            continue
        try:
            return _evaluated(node), end
        except ValueError:
            return None
    return None


def _evaluated(node: ast.AST) -> Any:
    if isinstance(node, ast.Call) and getattr(
            node.func, 'id', '') == 'dict' and not node.args:
        return {k.arg: _evaluated(k.value) for k in node.keywords}
    return ast.literal_eval(node)


def _improved(shipped: Shipped, hook: dict, message: str) -> tuple[
        dict, str, dict[str, float], ConfigError | None]:
    """The hook with what ``message`` says written into it, and how it goes.

    The first suggestion that brings the run further: it trains, or is
    refused for another reason.

    Raises:
        NoWay: Nothing of it does.
    """
    entry = re.match(r'\w+\.losses\.(\w+)', message)
    for suggestion in suggestions(message):
        other = copy.deepcopy(hook)
        if 'hook' in suggestion:
            other = dict(type=f'mmselfkd.{suggestion["hook"]}')
        elif set(suggestion) & {'losses', 'teacher'}:
            for name, value in suggestion.items():
                other[name] = {**(other.get(name) or {}), **value}
        elif entry:
            losses = other.setdefault('losses', {})
            losses[entry[1]] = {**(losses.get(entry[1]) or {}), **suggestion}
        else:
            continue
        step, error = attempt(shipped, other)
        if error is not None and (_kind(str(error)) == _kind(message)
                                  or 'at least one loss' in str(error)):
            continue
        way = ', '.join(f'{k}={v!r}' for k, v in suggestion.items())
        if entry and not set(suggestion) & {'losses', 'teacher', 'hook'}:
            way = f'{entry[1]}: {way}'
        return other, way, step, error
    raise NoWay(message)


def _kind(message: str) -> str:
    """A message without the names and sizes of one model."""
    return re.sub(r"\([^()]*\)|\[[^\]]*\]|'[^']*'|\d+|\w*Head\b", '~', message)


# -- the page ----------------------------------------------------------------


class Entry(NamedTuple):
    """What the page says of a cell: its outcome, and the message."""
    outcome: str
    note: str = ''


YES, NONE = 'yes', '-'
Key = tuple[str, str]  # head and method


def entries_of(text: str) -> dict[Key, Entry]:
    """What a page says, so that some of its cells can be run again."""
    table = [[cell.strip() for cell in line.strip('|').split('|')]
             for line in text.splitlines() if line.startswith('| ')]
    if not table:
        return {}
    methods = table[0][3:]
    heads = {tuple(_row_of(shipped)): head
             for head, shipped in SHIPPED.items()}
    notes = dict(re.findall(r'^(\d+)\. (.*)$', text, re.MULTILINE))
    found = {}
    for row in table[2:]:
        for method, cell in zip(methods, row[3:]):
            number = re.match(r'\[(\d+)\]', cell)
            outcome = REFUSED if number else {
                YES: TRAINED, NONE: NOT_RUN}.get(cell, cell.lower())
            if tuple(row[:3]) in heads and method in METHODS:
                found[heads[tuple(row[:3])], method] = Entry(
                    outcome, notes[number[1]] if number else '')
    return found


def page(entries: dict[Key, Entry]) -> str:
    """docs/hosts.md."""
    notes: dict[str, int] = {}
    rows = []
    for head, shipped in SHIPPED.items():
        shown = []
        for method in METHODS:
            outcome, note = entries.get((head, method), Entry(NOT_RUN))
            shown.append({TRAINED: YES, NOT_RUN: NONE}.get(
                outcome, outcome.upper()))
            if note:
                number = notes.setdefault(note, len(notes) + 1)
                shown[-1] = f'[{number}](#messages)'
        rows.append(f'| {" | ".join([*_row_of(shipped), *shown])} |')
    counted = [outcome for outcome, _ in entries.values()]
    total = ', '.join(f'{counted.count(word)} {word}' for word in (
        TRAINED, REFUSED, DEAD_END, CRASH, NOT_RUN) if word in counted)
    messages = [f'{number}. {note}' for note, number in notes.items()]
    return _PAGE.format(
        methods=' | '.join(METHODS), line=' | '.join('-' * len(METHODS)),
        rows='\n'.join(rows), total=total, messages='\n'.join(messages))


def _row_of(shipped: Shipped) -> list[str]:
    folder, _, name = shipped.config.partition('/')
    return [shipped.host, folder, f'`{name[:-3]}`']


def _short(cell: Cell) -> str:
    key, reason = re.fullmatch(  # the value may be a dict
        r'([\w.]+)(?: = (?:{.*?}|.*?))?: (.*)', cell.message).groups()
    reason = re.sub(r'\(\d[^()]*\)(, (?=\())?', '', reason).partition('; ')[0]
    reason = reason.replace(' ()', '').replace(' ,', ',')
    reason = re.sub(r'\ba (?!BiFPN)[A-Z]\w+', 'this model', reason)
    return f'`{key}`: {reason.strip()}. What works: `{cell.way}`'


_PAGE = """# Hosts: every shipped head with every method

Made by `python benchmarks/hosts_table.py`: for each head one shipped config,
narrowed (an eighth of the channels, small images, few queries; see
`benchmarks/shipped_heads.py`), trained for two steps on toy scenes with each
preset. The teacher is the same model with twice the channels, untrained;
EMA is `KADTDHook` with its moving average, and FRSKD, MixSKD and TFD have no
teacher.

`yes`: trained, all losses finite. A number: refused before the first
iteration by the message below, and what it names was tried and trains. `-`:
not run, for it needs a package that is not installed (LAD and PAA need
scikit-learn).

{total}.

| host | config | | {methods} |
| --- | --- | --- | {line} |
{rows}

## Messages

{messages}
"""


def load(path: Path) -> dict[tuple[str, str], Cell]:
    """The cells of a file with one a line; the last one counts."""
    cells = {}
    if path.is_file():
        for line in path.read_text().splitlines():
            cell = Cell(**json.loads(line))
            cells[cell.head, cell.method] = cell
    return cells


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--heads', nargs='*', default=list(SHIPPED),
                        help='such as mmseg/pspnet; the part before / is '
                        'optional')
    parser.add_argument('--methods', nargs='*', default=list(METHODS),
                        choices=list(METHODS))
    parser.add_argument('--results', type=Path, default=RESULTS)
    parser.add_argument('--out', type=Path, default=PAGE)
    args = parser.parse_args()
    warnings.filterwarnings('ignore')
    torch.set_num_threads(1)
    cells = load(args.results)
    args.results.parent.mkdir(parents=True, exist_ok=True)
    heads = [head for head in SHIPPED if head in args.heads or any(
        part in args.heads for part in head.split('/'))]
    with args.results.open('a') as file:
        for head in heads:
            for method in args.methods:
                if (head, method) in cells:
                    continue
                cell = run_cell(head, method)
                cells[head, method] = cell
                print(json.dumps(cell._asdict()), file=file, flush=True)
                print(f'{head} {method}: {cell.outcome} {cell.message} '
                      f'{cell.way}'.strip(), flush=True)
    shown = entries_of(args.out.read_text()) if args.out.is_file() else {}
    args.out.write_text(page(shown | {
        key: Entry(cell.outcome, _short(cell) if cell.outcome == REFUSED
                   else '') for key, cell in cells.items()
        if cell.outcome != NOT_RUN or key not in shown}))


if __name__ == '__main__':
    main()
