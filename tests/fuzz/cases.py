"""What a case is: a config, and what is to be expected of it."""
import copy
from dataclasses import dataclass, field
from typing import Any

import mmselfkd
from mmselfkd import losses
from mmselfkd.registry import MODELS

from .models import Places

STEPS = 2
# every loss of the package by its name
LOSSES = {name: getattr(losses, name) for name in losses.__all__
          if MODELS.module_dict.get(name) is getattr(losses, name)}


def of_boxes(kind: str) -> bool:
    """Whether a loss needs boxes, or the head of a detector."""
    loss = LOSSES[kind]
    return (loss.needs_objects or loss.needs_regions or loss.needs_head
            or loss.needs_positives)


# that can do without boxes, which the data of segmentors do not have
METHODS = [
    name for name in mmselfkd.__all__
    if name.endswith('Hook') and name not in (
        'DistillHook', 'DistillVisualizationHook') and not any(
        of_boxes(cfg['type'])
        for cfg in getattr(mmselfkd, name).preset.values())]


def hook_class(hook: dict) -> type:
    """The class of a hook's config."""
    return getattr(mmselfkd, hook['type'].removeprefix('mmselfkd.'))


@dataclass
class Taught:
    """A teacher of a case: its config and its sources.

    Attributes:
        cfg (dict | None): None: the one of the method hook.
        places (Places): What can be tapped in it.
        head (str): Of a pretrained one of the student's classes.
    """
    cfg: dict | None
    places: Places
    head: str = ''


@dataclass
class Case:
    """A config and what is to be expected of it.

    Attributes:
        label (str): ``valid-N`` or ``invalid-N``, for ``--only``.
        head (str): Of the student.
        places (Places): What can be tapped in it.
        size (tuple[int, int]): Height and width of its input.
        lengths (tuple[int, int]): Iterations and epochs of the run.
        cfg (dict): The whole config.
        hook (dict): The hook in it.
        files (dict): Path -> what is to be in it.
        bf16 (bool): Train under autocast.
        what (str): What was spoilt.
        says (str): What the error has to name.
        expected (str): 'train', 'error' or, where the documentation leaves
            it open, 'either'.
        is_sigmoid (bool): Class scores are those of a sigmoid.
        bands (int): Channels of the images.
        ignored (int): The label that the main head ignores.
        aside (int): That of the auxiliary or first head, where there is one.
        void (str): Of the labels 'all' or 'some' are that one.
        twin (str): A run that must agree: 'plain' one in its batches, one of
            a 'single' task loss or one of the 'last' distillation loss
            alone in the first values.
    """
    label: str
    head: str
    places: Places
    size: tuple[int, int]
    width: int = 4
    batch: int = 2
    lengths: tuple[int, int] = (STEPS, 1)
    cfg: dict = field(default_factory=dict)
    hook: dict = field(default_factory=dict)
    teachers: dict[str, Taught] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    bf16: bool = False
    what: str = ''
    says: str = ''
    expected: str = 'train'
    is_sigmoid: bool = False
    bands: int = 3
    ignored: int = 255
    aside: int = 255
    void: str = ''
    twin: str = ''

    @property
    def terms(self) -> dict[str, tuple[dict, dict]]:
        """Key -> the entry that the user writes, and the merged one."""
        preset = hook_class(self.hook).preset
        entries = self.hook.setdefault('losses', {})
        result = {}
        for key in [*preset, *(k for k in entries if k not in preset)]:
            if entries.get(key, {}) is not None:
                entry = entries.setdefault(key, {})
                result[key] = entry, copy.deepcopy(
                    {**preset.get(key, {}), **entry})
        return result
