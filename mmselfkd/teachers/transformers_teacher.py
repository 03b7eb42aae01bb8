"""A model of Hugging Face's transformers as a teacher."""
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .. import randomness
from ..errors import ConfigError, nearest
from ..hosts import InputFormat, register_head
from ..hosts.mmseg import log_share
from ..registry import TEACHERS
from .execution import Execution
from .inputs import with_size
from .libraries import blamed_on_library, import_library
from .model_teacher import ModelTeacher
from .timm_teacher import OutIndices, check_out_indices

# where outputs have their maps, in the order in which they are looked for
MAPS = 'feature_maps', 'fpn_hidden_states', 'encoder_hidden_states'
STATES = 'reshaped_hidden_states', 'hidden_states'
# whose position embedding has one size, by the beginning of their name
FIXED_SIZE = 'Sam', 'Eomt'
# the part of a model of images and more that sees the image
IMAGE_PARTS = 'vision_encoder', 'vision_model'
UNUSED = 'pooler.'  # weights that no map depends on


@TEACHERS.register_module()
class TransformersTeacher(ModelTeacher):
    """A backbone, a semantic segmentor or another image model.

    ``'features'`` are its maps ``out_indices``: the hidden states of a
    backbone or encoder, the last of them behind its last norm, or the feature
    maps of a ``...Backbone``. Tokens become maps by the patch size. Of a
    segmentor ``'logits'`` are the class scores before any resize, of one that
    classifies masks (Mask2Former) the logarithm of each class's share of a
    pixel; its classes are those of ``id2label``, so that ``classes`` maps
    them by name. Any module can be named as well, such as
    ``'model.encoder.layer.3'``.

    It is given RGB images with the mean and std of its
    ``preprocessor_config.json``. The input is padded to multiples of the
    patch size or of what that file says; an encoder that takes one size only
    (SAM) gets it resized. The start of the log says which.

    Needs ``pip install 'mmselfkd[transformers]'``.

    Args:
        model (str): A name on the hub, such as
            ``'nvidia/segformer-b5-finetuned-ade-640-640'``, or a folder that
            ``save_pretrained`` wrote. Code that comes with it is not run.
        architecture (str, optional): The class that is built, such as
            ``'Dinov2Backbone'`` or, of the weights of a masked autoencoder,
            ``'ViTModel'``. None: the one that the weights were saved from.
        out_indices (int | list[int]): The last so many maps, or which of
            them. Defaults to 1.
        model_args (dict, optional): Further arguments of
            ``from_pretrained``, such as ``revision``.
        mean, std (list[float], optional): Of pixels from 0 to 255 in the
            order RGB, where the model has no ``preprocessor_config.json``.
        channels (list[int], optional): The channels of the student's input
            that the teacher sees. None: all.
        input_size (tuple[int, int], optional): Height and width that inputs
            are resized to, whole patches. None: as the model says.
        classes (dict, optional): Which of its classes teach which of the
            student's; see :class:`~mmselfkd.teachers.ClassMap`.
        precision, channels_last, compile, side_stream: How the forward pass
            runs; see :class:`~mmselfkd.teachers.Execution`.
        key (str): Where this stands in the user's config, for the errors.

    Raises:
        ConfigError: transformers is not installed, there is no such model,
            weights are missing or of another shape, or how its input is
            normalised is not known.
    """

    def __init__(self,
                 model: str,
                 architecture: str | None = None,
                 out_indices: OutIndices = 1,
                 model_args: dict | None = None,
                 mean: Sequence[float] | None = None,
                 std: Sequence[float] | None = None,
                 channels: Sequence[int] | None = None,
                 input_size: Sequence[int] | None = None,
                 classes: dict | None = None,
                 precision: str | None = None,
                 channels_last: bool = False,
                 compile: bool | dict = False,
                 side_stream: bool = False,
                 key: str = 'teacher') -> None:
        transformers = import_library('transformers', key)
        execution = Execution(
            precision, channels_last, compile, side_stream, key)
        check_out_indices(out_indices, f'{key}.out_indices')
        where = f'{key}.model = {model!r}'
        options = dict(model_args or {})
        with blamed_on_library(where), randomness.preserved():
            net, self._architecture = _load(
                transformers, model, architecture, options, where, key)
            said = _preprocessing(transformers, model, mean, std, options, key)
        self._name = model
        wrapped = TransformersModel(
            net, self._architecture, out_indices, key)
        form = _input_format(said, wrapped)
        if input_size is not None:
            form = with_size(form, input_size, key, form.multiple)
        super().__init__(wrapped, form, channels, execution, classes, key)
        if wrapped.is_segmentor:
            self.classes = tuple(
                label for _, label in sorted(net.config.id2label.items()))

    def name(self) -> str:
        return f'{self._name} ({self._architecture})'


class TransformersModel(nn.Module):
    """Gives maps and class scores under the names that presets look at.

    Args:
        model (nn.Module): Of transformers, saved from ``architecture``.
        architecture (str): The name of that class.
        out_indices (int | Sequence[int]): See :class:`TransformersTeacher`.
        key (str): Of the teacher in the user's config, for the errors.
    """

    def __init__(self, model: Any, architecture: str, out_indices: OutIndices,
                 key: str) -> None:
        super().__init__()
        self.is_segmentor = 'Segmentation' in architecture
        for name in IMAGE_PARTS:
            model = getattr(model, name, model)
        if architecture.endswith('ForImageClassification'):
            model = model.base_model
        self.model, self.features = model, nn.Identity()
        if self.is_segmentor:
            self.logits = nn.Identity()
        self._indices, self._key = out_indices, key
        config = getattr(model.config, 'backbone_config', None) or model.config
        # what the run makes maps of tokens by
        self.patch_size = getattr(config, 'patch_size', None)
        self.num_prefix_tokens = 1 + getattr(config, 'num_register_tokens', 0)
        self.num_extra_tokens = 2  # DeiT
        takes = inspect.signature(model.forward).parameters
        name = 'interpolate_pos_encoding'
        self._options = {name: True} if name in takes else {}

    def forward(self, images: torch.Tensor) -> None:
        """Run it; taps look at ``features`` and ``logits``."""
        output = self.model(
            pixel_values=images, output_hidden_states=True, **self._options)
        maps = _maps(output)
        for level in maps:
            if level.dim() == 4:
                _check_is_map(level, images, f'{self._key}.architecture')
        self.features(self._picked(maps))
        if not self.is_segmentor:
            return
        if hasattr(output, 'masks_queries_logits'):
            self.logits(log_share(output.class_queries_logits,
                                  output.masks_queries_logits))
        else:
            self.logits(output.logits)

    def _picked(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        indices = self._indices
        if isinstance(indices, int):
            indices = range(-indices, 0)
        if not all(-len(maps) <= i < len(maps) for i in indices):
            raise ConfigError(
                f'{self._key}.out_indices = {self._indices!r}: the model '
                f'gives {len(maps)} maps, 0 to {len(maps) - 1}')
        return [maps[i] for i in indices]


register_head('TransformersModel', classes='logits', activation='softmax')


def _maps(output: Any) -> list[torch.Tensor]:
    """Maps (N, C, H, W) or tokens (N, L, C) of an output."""
    for name in MAPS:
        if getattr(output, name, None):
            return list(getattr(output, name))
    found = list(next((getattr(output, name) for name in STATES
                       if getattr(output, name, None)), ()))
    last = getattr(output, 'last_hidden_state', None)
    if last is None:
        return found
    if found and last.shape == found[-1].shape:
        return [*found[:-1], last]  # behind the last norm
    # the neck of SAM gives one map, and its layers (N, H, W, C)
    return [last] if last.dim() == 4 or not found else found


def _check_is_map(level: torch.Tensor, images: torch.Tensor,
                  where: str) -> None:
    """Whether a level has the image's height and width where a map has them.

    Raises:
        ConfigError: It does not; some models give (N, H, W, C).
    """
    (height, width), (rows, columns) = images.shape[2:], level.shape[2:]
    for stride in range(1, max(height, width) + 1):
        if rows in (height // stride, -(-height // stride)) and (
                columns in (width // stride, -(-width // stride))):
            return
    raise ConfigError(
        f'{where}: what it gives, {tuple(level.shape)}, is no map of images '
        f'{tuple(images.shape)}; name a class that gives such, '
        "architecture='...Backbone', or a module as the source")


def _load(transformers: Any, name: Any, architecture: str | None,
          options: dict[str, Any], where: str, key: str) -> tuple[Any, str]:
    """The model with all of its weights, and the class that was built."""
    if architecture is None:
        config = transformers.AutoConfig.from_pretrained(name, **options)
        architecture = next(iter(config.architectures or ()), None)
    cls: Any = getattr(transformers, str(architecture), None)
    if architecture is None or not hasattr(cls, 'from_pretrained'):
        raise ConfigError(
            f'{key}.architecture = {architecture!r}: transformers '
            f'{transformers.__version__} has no such class of models' + (
                nearest(architecture, dir(transformers), examples=[
                    'Dinov2Backbone', 'SegformerForSemanticSegmentation'])))
    if 'MAE' in architecture or architecture.endswith('ForPreTraining'):
        raise ConfigError(
            f'{key}.architecture = {architecture!r}: drops patches and mixes '
            "their order; load its weights as another class, such as "
            "architecture='ViTModel'")
    net, info = cls.from_pretrained(
        name, output_loading_info=True, dtype=torch.float32, **options)
    missing = [n for n in info['missing_keys'] if UNUSED not in n]
    wrong = [*missing, *(str(n) for n in info['mismatched_keys'])]
    if wrong:
        raise ConfigError(
            f'{where} does not fit {architecture}: {len(wrong)} weights are '
            f'missing or of another shape ({", ".join(wrong[:3])}, ...); '
            'name the class that they belong to, architecture=...')
    return net, architecture


def _preprocessing(transformers: Any, name: str,
                   mean: Sequence[float] | None, std: Sequence[float] | None,
                   options: dict[str, Any], key: str) -> dict[str, Any]:
    """What the files of the model say of its input."""
    module = import_library('transformers.image_processing_base', key)
    try:
        said, _ = module.ImageProcessingMixin.get_image_processor_dict(
            name, **options)
    except OSError as error:
        if mean is None or std is None:
            raise ConfigError(
                f'{key}.model = {name!r}: has no preprocessor_config.json, '
                'so its normalisation is not known; say mean=[...] and '
                'std=[...] of pixels from 0 to 255, in the order RGB'
            ) from error
        said = {}
    if mean is not None or std is not None:
        said = dict(said, rescale_factor=1, image_mean=mean, image_std=std)
    return said


def _input_format(said: dict[str, Any],
                  model: TransformersModel) -> InputFormat:
    """Pixels are scaled first, and then normalised."""
    scale = 1 / said.get('rescale_factor', 1 / 255) if said.get(
        'do_rescale', True) else 1.
    mean, std = [0.], [1.]
    if said.get('do_normalize', True):
        mean, std = said['image_mean'], said['image_std']
    patch = model.patch_size or 1
    patch = max((patch, ) if isinstance(patch, int) else patch)
    model_: Any = model.model
    size, fixed = None, getattr(model_.config, 'image_size', None)
    if fixed and type(model_).__name__.startswith(FIXED_SIZE):
        size = (fixed, fixed) if isinstance(fixed, int) else tuple(fixed)
    return InputFormat(
        mean=[scale * x for x in mean], std=[scale * x for x in std],
        is_swapped=not said.get('do_flip_channel_order', False),
        multiple=max(patch, said.get('size_divisor') or 1), size=size)
