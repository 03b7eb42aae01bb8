"""The student's batch as another model wants it, and its levels back."""
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from ..checks import is_integer
from ..errors import ConfigError
from ..hosts import InputFormat
from ..layout import BatchLayout


class InputAdapter:
    """Channels, normalisation, padding and size of one model for another's.

    Where mean, std or the order of channels differ, one affine map turns the
    student's input into the teacher's; padding gets the teacher's own value.
    Where the teacher takes multiples of a size only, the input is padded at
    the right and at the bottom, and the levels are cut back to what covers
    the student's input. Where it takes one size only, the input is resized
    bilinearly.

    Args:
        student (InputFormat): Of the batch at hand.
        teacher (InputFormat): Of what is wanted.
        inputs (Tensor): A batch of the student (N, C, H, W).
        channels (Sequence[int], optional): The student's channels that the
            teacher sees, in the student's order of colours. None: all.
        key (str): Where the teacher stands in the config, for the errors.

    Attributes:
        given (int): How many channels the teacher sees.

    Raises:
        ConfigError: The student has no such channels.
    """

    def __init__(self, student: InputFormat, teacher: InputFormat,
                 inputs: torch.Tensor,
                 channels: Sequence[int] | None = None,
                 key: str = 'teacher') -> None:
        self.format = teacher
        self._count, self._key = inputs.shape[1], key
        count = self._count
        if channels is not None and not (
                isinstance(channels, (list, tuple)) and channels and all(
                    is_integer(c) and 0 <= c < count for c in channels)):
            raise ConfigError(f'{key}.channels = {channels!r}: a list of '
                              f'numbers from 0 to {count - 1} is needed, '
                              "channels of the student's input")
        self._channels = None if channels is None else list(channels)
        self.given = count if channels is None else len(channels)
        self._affine = self._normalisation_change(
            student, teacher, self.given, inputs.device)

    def __call__(self, inputs: torch.Tensor,
                 layout: BatchLayout) -> torch.Tensor:
        """The teacher's input (N, C', H', W')."""
        if self._channels is not None:
            inputs = inputs[:, self._channels]
        if self._affine is not None:
            swap, scale, shift = self._affine
            inputs = inputs.flip(1) if swap else inputs
            inputs = inputs * scale + shift
            image = layout.image()
            if image is not None:
                inputs = inputs.where(image, self.format.pad_value)
        size = self.size(inputs.shape[2:])
        if self.format.size is not None and size != inputs.shape[2:]:
            return F.interpolate(
                inputs, size, mode='bilinear', align_corners=False)
        (height, width), (tall, wide) = inputs.shape[2:], size
        if (height, width) != size:
            inputs = F.pad(inputs, (0, wide - width, 0, tall - height),
                           value=self.format.pad_value)
        return inputs

    def size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Of the teacher's input for a student's input of ``size``."""
        if self.format.size is not None:
            return self.format.size
        step = self.format.multiple
        height, width = (-(-side // step) * step for side in size)
        return height, width

    def cut(self, level: torch.Tensor,
            size: tuple[int, ...]) -> torch.Tensor:
        """What of a level (N, C, h, w) covers an input of ``size``.

        Where that is no whole number of cells, it is sampled bilinearly with
        as many cells as reach into the input.
        """
        padded = self.size(size)
        if self.format.size is not None or padded == size:
            return level
        tall, wide = (side / total for side, total in zip(size, padded))
        height, width = (-(-cells * side // total) for cells, side, total in
                         zip(level.shape[2:], size, padded))
        if (height, width) == (level.shape[2] * tall, level.shape[3] * wide):
            return level[:, :, :height, :width]
        theta = level.new_tensor(
            [[wide, 0, wide - 1], [0, tall, tall - 1]]).expand(
                len(level), 2, 3)
        grid = F.affine_grid(
            theta, [*level.shape[:2], height, width], align_corners=False)
        return F.grid_sample(level, grid, padding_mode='border',
                             align_corners=False)

    def other_channels(self, wanted: int) -> ConfigError:
        """The error where the teacher takes ``wanted`` channels."""
        seen = [min(i, self._count - 1) for i in range(wanted)]
        return ConfigError(
            f'{self._key}.channels = {self._channels!r}: the teacher takes '
            f'{wanted} channels, but is given {self.given} of the '
            f"{self._count} of the student's input; name those that it sees, "
            f'such as channels={seen}, or use a teacher of the same input')

    def describe(self, size: tuple[int, ...]) -> str:
        """What happens to an input of ``size``, for the log."""
        other = self.size(size)
        if other == size:
            return ''
        how = 'resized' if self.format.size is not None else 'padded'
        return f', input {how} from {size} to {other}'

    def _normalisation_change(self, theirs: InputFormat, ours: InputFormat,
                              channels: int, device: torch.device) -> Any:
        """``(swap, scale, shift)`` from the student's input; None: none."""
        mean_s, std_s = theirs.statistics()
        mean_t, std_t = ours.statistics()
        if len(mean_t) not in (1, channels):
            raise self.other_channels(len(mean_t))
        if self._channels is not None and len(mean_s) > 1:
            mean_s, std_s = mean_s[self._channels], std_s[self._channels]
        # neither turns the order of any other number of channels around
        swap = channels == 3 and ours.is_swapped != (
            theirs.is_swapped and self._count == 3)
        if swap:  # the student's statistics in the teacher's channel order
            mean_s, std_s = mean_s.flip(0), std_s.flip(0)
        if not swap and _equal(mean_s, mean_t) and _equal(std_s, std_t):
            return None
        # there once and for all: a copy in each step would wait for the GPU
        return swap, *(x.to(device) for x in (
            std_s / std_t, (mean_s - mean_t) / std_t))


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def with_size(form: InputFormat, size: Any, key: str,
              multiple: int = 1) -> InputFormat:
    """``form`` of a model whose input is resized to what the user says.

    Args:
        form (InputFormat): As the model says it.
        size (Sequence[int]): ``input_size``.
        key (str): Of the teacher in the user's config, for the errors.
        multiple (int): Side of the patches of a model that would leave out
            what is no whole patch, or refuse it.

    Raises:
        ConfigError: No height and width, no whole patches, or another size
            than the only one that the model takes.
    """
    where = f'{key}.input_size = {size!r}'
    if not (isinstance(size, (list, tuple)) and len(size) == 2 and all(
            is_integer(side) and side > 0 for side in size)):
        raise ConfigError(f'{where}: (height, width) in pixels is needed')
    if form.size not in (None, tuple(size)):
        raise ConfigError(f'{where}: this model takes {form.size} alone; '
                          'leave input_size out')
    if any(side % multiple for side in size):
        whole = tuple(multiple * max(1, round(side / multiple))
                      for side in size)
        raise ConfigError(
            f'{where}: patches of {multiple} pixels do not divide it; take '
            f'multiples of {multiple}, such as {whole}, or leave it out: the '
            'input is then padded to whole patches')
    return dataclasses.replace(form, size=tuple(size))
