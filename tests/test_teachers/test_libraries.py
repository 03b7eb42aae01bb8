"""TimmTeacher and TransformersTeacher, of files that the libraries write.

`make teachers` runs these; the libraries are optional.
"""
import functools
import json
from contextlib import ExitStack
from importlib.util import find_spec

import pytest
import torch
from helpers import KD, At, pair, teacher_model
from helpers import train as train_config
from torch import nn

from mmselfkd import ConfigError
from mmselfkd.datasets.toy_scenes import CLASSES
from mmselfkd.teachers import BatchContext, TimmTeacher, TransformersTeacher

for _name in 'timm', 'transformers':
    if find_spec(_name) is None:
        pytest.skip(f'{_name} is not installed; `make teachers` runs this',
                    allow_module_level=True)

try:
    import torchvision  # noqa: F401
except RuntimeError:  # its operators are built for another torch
    _operators = torch.library.Library('torchvision', 'DEF')
    for _name in 'nms', 'qnms':  # which it needs to be imported
        _operators.define(f'{_name}(Tensor dets, Tensor scores, '
                          'float iou_threshold) -> Tensor')

import timm  # noqa: E402
import transformers  # noqa: E402

VIT = dict(embed_dim=24, depth=3, num_heads=2)
SMALL = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
             intermediate_size=16)
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


def taught(teacher, *sources, size=(48, 64)):
    """What it gives of BGR images that are not normalised, and these."""
    for source in sources:
        teacher.request(source, 'losses.loss_x.source', nn.Module())
    torch.manual_seed(1)
    context = BatchContext(
        nn.Module(), 255 * torch.rand(2, 3, *size), None)
    teacher.fit(context, ExitStack())
    teacher.rehearse(context)
    return teacher.teach(context, None).levels, context.inputs


def normalised(inputs, mean=MEAN, std=STD, scale=255):
    """As the libraries do it: RGB, from 0 to 1, mean and std."""
    mean, std = (torch.tensor(x)[:, None, None] for x in (mean, std))
    return (inputs.flip(1) / scale - mean) / std


def refused(build, *parts):
    with pytest.raises(ConfigError) as error:
        build()
    for part in parts:
        assert part in str(error.value)


# -- timm ---------------------------------------------------------------------


def timm_model(name, **args):
    torch.manual_seed(2)
    model = timm.create_model(name, **args).eval()
    for parameter in model.parameters():  # layer scales would hide the blocks
        nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize('kind', ['folder', 'pth', 'safetensors'])
def test_timm_transformer_of_its_files(tmp_path, kind):
    """Its tokens are maps, behind its last norm, of the normalised image."""
    args = dict(VIT, num_classes=5)
    model = timm_model('vit_tiny_patch16_224', dynamic_img_size=True, **args)
    if kind == 'folder':
        model.pretrained_cfg.update(mean=MEAN, std=STD)
        timm.models.save_for_hf(model, tmp_path / 'model', model_args=VIT)
        teacher = TimmTeacher(str(tmp_path / 'model'))
        mean, std = MEAN, STD
    else:
        file = tmp_path / f'model.{kind}'
        if kind == 'pth':
            torch.save(model.state_dict(), file)
        else:
            from safetensors.torch import save_file
            save_file(model.state_dict(), file)
        teacher = TimmTeacher('vit_tiny_patch16_224', str(file),
                              model_args=args)
        mean = std = [0.5] * 3
    levels, inputs = taught(
        teacher, 'features', 'backbone.model.blocks.1')
    with torch.no_grad():
        tokens = model.forward_features(normalised(inputs, mean, std))[:, 1:]
    found, = levels['features']
    assert found.shape == (2, 24, 3, 4)
    torch.testing.assert_close(
        found.flatten(2).transpose(1, 2), tokens, atol=1e-4, rtol=1e-4)
    assert levels['backbone.model.blocks.1'][0].shape == (2, 24, 3, 4)


def test_timm_pyramid():
    teacher = TimmTeacher('test_resnet', 'random', out_indices=[1, 3])
    levels, inputs = taught(teacher, 'features', 'features[1]')
    with torch.no_grad():
        wanted = teacher.model.backbone.model.forward_intermediates(
            normalised(inputs, [0.5] * 3, [0.5] * 3), indices=[1, 3],
            intermediates_only=True)
    assert [x.shape[2:] for x in wanted] == [(12, 16), (3, 4)]
    torch.testing.assert_close(levels['features'], wanted)
    torch.testing.assert_close(levels['features[1]'], wanted[1:])


@pytest.mark.parametrize('model, args, size, says', [
    ('vit_small_patch14_reg4_dinov2', VIT, (4, 5),
     'padded from (48, 64) to (56, 70)'),
    ('beit_base_patch16_224', dict(VIT, img_size=32), (2, 2),
     'resized from (48, 64) to (32, 32)'),
    ('test_convnext', {}, (1, 2), 'not trained')])
def test_timm_sizes(model, args, size, says):
    """Of the part of a padded map that the image covers."""
    teacher = TimmTeacher(model, 'random', model_args=args)
    found, = taught(teacher, 'features')[0]['features']
    assert tuple(found.shape[2:]) == size
    assert says in teacher.describe()


def test_timm_size_that_the_user_says():
    teacher = TimmTeacher('test_resnet', 'random', input_size=(32, 32))
    taught(teacher, 'features')
    assert 'resized from (48, 64) to (32, 32)' in teacher.describe()


@pytest.mark.parametrize('model, args, size, says', [
    ('vit_small_patch14_reg4_dinov2', VIT, (30, 44),
     'patches of 14 pixels do not divide it; .*(28, 42)'),
    ('beit_base_patch16_224', dict(VIT, img_size=32), (48, 48),
     'this model takes (32, 32) alone'),
    ('test_resnet', {}, 32, '(height, width)'),
    ('test_resnet', {}, (32, 0), '(height, width)')])
def test_timm_sizes_that_cannot_be(model, args, size, says):
    refused(lambda: TimmTeacher(
        model, 'random', model_args=args, input_size=size),
        f'teacher.input_size = {size!r}', *says.split('.*'))


def test_timm_what_cannot_be_had(tmp_path):
    make = functools.partial(functools.partial, TimmTeacher)
    refused(make('resnet19'), "teacher.model = 'resnet19'", 'nearest',
            'resnet')
    refused(make(3), 'teacher.model = 3')
    refused(make('test_resnet', 'none.pth'),
            "teacher.checkpoint = 'none.pth': no such file")
    refused(make('test_resnet', 'random', out_indices=9),
            'teacher.out_indices = 9', '1 to 5')
    refused(make('test_resnet', 'random', out_indices='all'),
            "teacher.out_indices = 'all'")
    refused(make('test_resnet', 'random',
                 model_args=dict(features_only=True)),
            'teacher.model_args.features_only = True')
    refused(make('test_resnet', 'random', model_args=dict(widht=2)),
            'teacher.model', 'widht')
    state = timm.create_model('test_resnet', num_classes=5).state_dict()
    for name, change in (('lacks', lambda s: s.pop('conv1.0.weight')),
                         ('more', lambda s: s.update(x=torch.ones(1))),
                         ('other', lambda s: s.update(
                             {'bn1.weight': torch.ones(3)}))):
        changed = dict(state)
        change(changed)
        torch.save(changed, tmp_path / f'{name}.pth')
        for classes in 5, 0:  # nor is less than all taken
            refused(make('test_resnet', str(tmp_path / f'{name}.pth'),
                         model_args=dict(num_classes=classes)),
                    'teacher.checkpoint', f'{name}.pth')


def test_timm_in_a_run(tiny, tmp_path):
    runner, logs = train_config(tiny.config(tmp_path, dict(
        type='mmselfkd.NFDHook', teacher=dict(
            type='TimmTeacher', model='vit_tiny_patch16_224', model_args=VIT,
            checkpoint='random', out_indices=2),
        losses=dict(loss_nfd=dict(
            source=pair('features', 'features[0]'))))))
    assert logs.entries[1]['distill.loss_nfd'] > 0


def test_building_leaves_the_random_stream_alone():
    before = torch.get_rng_state()
    TimmTeacher('test_resnet', 'random')
    assert torch.equal(before, torch.get_rng_state())


# -- transformers -------------------------------------------------------------


def saved(path, name, config, **processor):
    """A folder as `save_pretrained` writes it, and its model."""
    torch.manual_seed(3)
    model = getattr(transformers, name)(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(path)
    (path / 'preprocessor_config.json').write_text(json.dumps(dict(
        dict(do_rescale=True, rescale_factor=1 / 255, do_normalize=True,
             image_mean=MEAN, image_std=STD), **processor)))
    return model


def segformer(classes):
    return transformers.SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16,
        id2label=dict(enumerate(classes)))


def swin(depths=(1, 1, 1, 1), **more):
    return transformers.SwinConfig(
        embed_dim=8, depths=list(depths), num_heads=[1, 1, 2, 2],
        window_size=4, image_size=64, **more)


def test_segmentor_of_a_folder(tmp_path):
    model = saved(tmp_path, 'SegformerForSemanticSegmentation',
                  segformer('abc'))
    teacher = TransformersTeacher(str(tmp_path), out_indices=[0, 2])
    levels, inputs = taught(teacher, 'logits', 'features')
    with torch.no_grad():
        output = model(normalised(inputs), output_hidden_states=True)
    torch.testing.assert_close(levels['logits'], [output.logits])
    torch.testing.assert_close(levels['features'], [
        output.hidden_states[0], output.hidden_states[2]])
    assert teacher.classes == ('a', 'b', 'c')
    assert 'SegformerForSemanticSegmentation' in teacher.describe()


def test_mask_classifier(tmp_path):
    """Each class's share of a pixel, against plain loops."""
    model = saved(
        tmp_path, 'Mask2FormerForUniversalSegmentation',
        transformers.Mask2FormerConfig(
            backbone_config=swin(out_features=[f'stage{i}' for i in (
                1, 2, 3, 4)]), feature_size=32, mask_feature_size=32,
            hidden_dim=32, encoder_feedforward_dim=16, encoder_layers=1,
            decoder_layers=2, num_attention_heads=2, dim_feedforward=16,
            num_queries=3, num_labels=4), size_divisor=32)
    teacher = TransformersTeacher(str(tmp_path), out_indices=4)
    levels, inputs = taught(teacher, 'logits', 'features', size=(64, 64))
    with torch.no_grad():
        output = model(normalised(inputs))
    classes = output.class_queries_logits.softmax(-1)
    masks = output.masks_queries_logits.sigmoid()
    found, = levels['logits']
    assert found.shape == (2, 4, 16, 16)
    for y, x in (0, 0), (7, 9):
        share = [sum(float(classes[1, q, k] * masks[1, q, y, x])
                     for q in range(3)) for k in range(4)]
        assert found[1, :, y, x].exp().tolist() == pytest.approx(
            [value / sum(share) for value in share], rel=1e-3)
    assert [x.shape[2] for x in levels['features']] == [16, 8, 4, 2]


def test_tokens_are_maps(tmp_path):
    """Class and register tokens left out; padded to whole patches."""
    model = saved(tmp_path, 'Dinov2WithRegistersModel',
                  transformers.Dinov2WithRegistersConfig(
                      **SMALL, patch_size=14, image_size=56))
    teacher = TransformersTeacher(str(tmp_path), out_indices=2)
    levels, inputs = taught(
        teacher, 'features', 'model.encoder.layer.0', size=(56, 84))
    with torch.no_grad():
        output = model(normalised(inputs), output_hidden_states=True)
    first, last = levels['features']
    for found, tokens in ((first, output.hidden_states[1]),
                          (last, output.last_hidden_state)):
        torch.testing.assert_close(
            found, tokens[:, 5:].transpose(1, 2).unflatten(2, (4, 6)))
    assert torch.equal(levels['model.encoder.layer.0'][0], first)
    padded = TransformersTeacher(str(tmp_path))
    assert taught(padded, 'features')[0]['features'][0].shape[2:] == (4, 5)
    assert 'padded from (48, 64) to (56, 70)' in padded.describe()
    refused(lambda: TransformersTeacher(str(tmp_path), input_size=(56, 60)),
            'teacher.input_size = (56, 60)', 'patches of 14 pixels',
            '(56, 56)')


@pytest.mark.parametrize('name, config, channels, stride', [
    ('ViTForImageClassification', lambda: transformers.ViTConfig(
        **SMALL, image_size=32), 16, 16),
    ('DINOv3ViTModel', lambda: transformers.DINOv3ViTConfig(
        **SMALL, num_register_tokens=4), 16, 16),
    ('DeiTModel', lambda: transformers.DeiTConfig(
        **SMALL, image_size=32), 16, 16),
    ('BeitForSemanticSegmentation', lambda: transformers.BeitConfig(
        **dict(SMALL, num_hidden_layers=4), image_size=64, num_labels=3,
        out_indices=[1, 2, 3, 4]), 16, 16),
    ('CLIPModel', lambda: transformers.CLIPConfig(
        text_config=dict(SMALL, vocab_size=9), projection_dim=8,
        vision_config=dict(SMALL, patch_size=16, image_size=64)), 16, 16),
    ('SwinModel', lambda: swin(depths=[1] * 2), 16, 8),
    ('SwinBackbone', lambda: swin(depths=[1] * 2), 16, 8),
    ('ConvNextModel', lambda: transformers.ConvNextConfig(
        hidden_sizes=[8, 8, 8, 24], depths=[1] * 4), 24, 32)])
def test_many_models(tmp_path, name, config, channels, stride):
    saved(tmp_path, name, config())
    teacher = TransformersTeacher(str(tmp_path))
    found, = taught(teacher, 'features', size=(64, 96))[0]['features']
    assert found.shape == (2, channels, 64 // stride, 96 // stride)


def test_encoder_of_sam(tmp_path):
    """One size only; what its neck gives."""
    vision = dict(SMALL, image_size=64, patch_size=16, output_channels=8,
                  global_attn_indexes=[1], num_pos_feats=4, window_size=2,
                  mlp_dim=16)
    model = saved(tmp_path, 'SamModel', transformers.SamConfig(
        vision_config=vision,
        prompt_encoder_config=dict(
            hidden_size=8, image_size=64, patch_size=16),
        mask_decoder_config=dict(
            hidden_size=8, mlp_dim=8, num_attention_heads=2,
            iou_head_hidden_dim=8)))
    teacher = TransformersTeacher(str(tmp_path))
    levels, inputs = taught(teacher, 'features')
    image = nn.functional.interpolate(
        normalised(inputs), (64, 64), mode='bilinear')
    with torch.no_grad():
        wanted = model.vision_encoder(image).last_hidden_state
    torch.testing.assert_close(levels['features'], [wanted],
                               atol=1e-4, rtol=1e-4)
    assert 'resized from (48, 64) to (64, 64)' in teacher.describe()
    refused(lambda: TransformersTeacher(str(tmp_path), input_size=(48, 48)),
            'teacher.input_size = (48, 48)', 'takes (64, 64) alone')


@pytest.mark.parametrize('said, wanted', [
    (dict(do_normalize=False), ([0.] * 3, [1.] * 3, 255)),
    (dict(do_rescale=False), (MEAN, STD, 1)),
    (dict(rescale_factor=1 / 127.5), (MEAN, STD, 127.5))])
def test_other_preprocessing(tmp_path, said, wanted):
    model = saved(tmp_path, 'ConvNextModel', transformers.ConvNextConfig(
        hidden_sizes=[8] * 4, depths=[1] * 4), **said)
    teacher = TransformersTeacher(str(tmp_path))
    levels, inputs = taught(teacher, 'features')
    with torch.no_grad():
        output = model(normalised(inputs, *wanted))
    torch.testing.assert_close(
        levels['features'], [output.last_hidden_state], atol=1e-3, rtol=1e-3)


def test_transformers_what_cannot_be_had(tmp_path):
    saved(tmp_path, 'ViTModel', transformers.ViTConfig(
        **SMALL, image_size=32))
    path = str(tmp_path)
    make = functools.partial(functools.partial, TransformersTeacher)
    refused(make('./none'), "teacher.model = './none'")
    refused(make(path, 'ViTModl'), "teacher.architecture = 'ViTModl'",
            "'ViTModel'")
    refused(make(path, 'ViTMAEModel'), "'ViTMAEModel'", 'drops patches',
            "'ViTModel'")
    refused(make(path, 'Dinov2Model'), 'does not fit Dinov2Model',
            'weights are missing')
    teacher = TransformersTeacher(path, out_indices=[7])
    refused(lambda: taught(teacher, 'features'),
            'teacher.out_indices = [7]', '3 maps')
    refused(lambda: taught(TransformersTeacher(path), 'logits'), "'logits'")
    (tmp_path / 'preprocessor_config.json').unlink()
    refused(make(path), 'no preprocessor_config.json', 'mean=[...]')
    model = transformers.ViTModel.from_pretrained(path)
    levels, inputs = taught(
        TransformersTeacher(path, mean=[100.] * 3, std=[50.] * 3),
        'features', size=(32, 32))
    with torch.no_grad():
        output = model((inputs.flip(1) - 100) / 50)
    torch.testing.assert_close(
        levels['features'][0].flatten(2).transpose(1, 2),
        output.last_hidden_state[:, 1:])


def test_missing_weights_are_named(tmp_path):
    """The library would draw them at random."""
    from safetensors.torch import load_file, save_file
    saved(tmp_path, 'SegformerForSemanticSegmentation', segformer('abc'))
    file = tmp_path / 'model.safetensors'
    state = load_file(file)
    del state['decode_head.classifier.weight']
    save_file(state, file, metadata=dict(format='pt'))
    refused(lambda: TransformersTeacher(str(tmp_path)), 'teacher.model',
            '1 weights are missing', 'decode_head.classifier.weight')


def test_segmentor_of_other_labels_in_a_run(tiny, tmp_path, spy):
    """Class maps by name, of id2label."""
    theirs = ['sky', CLASSES[4], 'tree', CLASSES[0].upper()]
    saved(tmp_path / 'model', 'SegformerForSemanticSegmentation',
          segformer(theirs))
    kept = []
    cfg = tiny.config(tmp_path, dict(
        type='mmselfkd.DistillHook', teacher=dict(
            type='TransformersTeacher', model=str(tmp_path / 'model'),
            classes=dict(by='name')),
        losses=dict(loss_kd=KD, loss_seen=dict(type='Spy', source='logits'))))
    cfg.log_level = 'INFO'
    _, logs = train_config(cfg, At(
        before_train=lambda runner: kept.append(teacher_model(runner))))
    assert logs.entries[1]['distill.loss_kd'] > 0
    assert all(s.shape[1] == t.shape[1] == 2 for s, t in spy.calls)
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert f'{CLASSES[4]} <- {CLASSES[4]}' in log
    assert not any(p.requires_grad for p in kept[0].parameters())
