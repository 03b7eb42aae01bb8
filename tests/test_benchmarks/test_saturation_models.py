"""Backbones, conversion of weights and configs of benchmarks/saturation."""
import mmcv
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from benchmarks.saturation.convert_weights import calibrate, rename
from benchmarks.saturation.models import EfficientNetLite2, MobileNetV1


@pytest.mark.parametrize('backbone, channels, parameters', [
    # published: 6.09 and 0.47 M with head and classifier of 1000 classes
    (EfficientNetLite2, [24, 48, 120, 352],
     6_092_072 - (352 * 1280 + 2 * 1280) - 1281 * 1000),
    (lambda: MobileNetV1(0.25), [32, 64, 128, 256], 470_072 - 257_000),
])
def test_levels_and_parameters(backbone, channels, parameters):
    """Strides of 4 to 32, where the side is no multiple as well."""
    model = backbone()
    model.eval()
    levels = model(torch.zeros(1, 3, 120, 160))
    assert [level.shape[1] for level in levels] == channels
    assert [level.shape[2:] for level in levels] == [
        (30, 40), (15, 20), (8, 10), (4, 5)]
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize('backbone', [EfficientNetLite2, MobileNetV1])
def test_norm_eval(backbone):
    for norm_eval in (False, True):
        model = backbone(norm_eval=norm_eval)
        model.train()
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms and model.training
        assert all(norm.training != norm_eval for norm in norms)


def test_rename():
    """By order; a shape or a kind of entry that differs is named."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2))
    weights = {f'a.{name}': value + 1
               for name, value in model.state_dict().items()}
    renamed = rename(model, weights | {'fc.weight': torch.zeros(3)})
    assert list(renamed) == list(model.state_dict())
    model.load_state_dict(renamed)
    assert torch.equal(model[1].running_mean, torch.ones(2))
    with pytest.raises(ValueError, match=r'a.0.weight \(3,\) cannot be 0.we'):
        rename(model, weights | {'a.0.weight': torch.zeros(3)})
    with pytest.raises(ValueError, match='5 entries, 6 are needed'):
        rename(model, dict(list(weights.items())[:-1]))
    weights['b.mean'] = weights.pop('a.1.bias')
    with pytest.raises(ValueError, match='cannot be 1.bias'):
        rename(model, weights)


def test_calibrate():
    """The function stays; training sees channels as they were scaled."""
    model = MobileNetV1(0.25)
    model.init_weights()
    for module in model.modules():  # as folded: statistics of the identity
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
            module.running_var.fill_(1 - module.eps)
    images = torch.randn(3, 2, 3, 32, 32)
    with torch.no_grad():
        before = model.eval()(images[0])
        calibrate(model, images)
        after = model.eval()(images[0])
    for a, b in zip(before, after):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    x = torch.cat([model.stem.conv(batch) for batch in images])
    norm = model.stem.bn
    torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(
        norm.running_var, x.var((0, 2, 3), correction=0))
    # one batch of all images: statistics of the batch change nothing
    with torch.no_grad():
        torch.testing.assert_close(
            norm.train()(x), norm.eval()(x), rtol=1e-4, atol=1e-4)


@pytest.fixture
def load(root, monkeypatch):
    """Loads a config as the runner has it loaded."""

    def load(name, **env):
        for key, value in env.items():
            monkeypatch.setenv(key, value)
        return Config.fromfile(
            root / 'benchmarks' / 'saturation' / 'configs' / f'{name}.py')

    return load


@pytest.mark.parametrize('data, count', [('camvid', 367), ('bccd', 205)])
def test_the_part_held_apart_is_not_trained_on(load, data, count):
    cfg = load(f'{data}_student', SPLIT='held')
    train, val = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    assert sorted([*train.indices, *val.indices]) == [*range(count)]
    assert len(val.indices) == [73, 41][data == 'bccd']
    for key in ('data_prefix', 'ann_file'):  # both are images of train
        assert train.get(key) == val.get(key)
    cfg = load(f'{data}_student', SPLIT='val')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        assert 'indices' not in loader.dataset
    assert 'val' in str(cfg.val_dataloader.dataset)
    assert 'train' not in str(cfg.val_dataloader.dataset)


@pytest.mark.parametrize('split, count', [('eighth', 46), ('quarter', 92)])
def test_few_labels(load, split, count, tmp_path):
    """Student and teacher have the same; the other images have none."""
    for name in ('camvid_student', 'camvid_teacher', 'camvid_unlabelled'):
        cfg = load(name, SPLIT=split)
        labelled = cfg.train_dataloader.dataset.indices
        assert len(labelled) == count
        assert 'val' in str(cfg.val_dataloader.dataset)
    others = cfg.custom_hooks[-1].unlabelled.dataloader.dataset
    assert sorted([*labelled, *others.indices]) == [*range(367)]
    assert 'LoadAnnotations' not in str(others)
    image = tmp_path / 'image.jpg'
    mmcv.imwrite(np.zeros((360, 480, 3), np.uint8), str(image))
    init_default_scope('mmseg')
    packed = Compose(others.pipeline)(dict(img_path=str(image)))
    channels, height, width = packed['inputs'].shape
    assert channels == 3 and height <= 120 and width <= 160
    assert 'gt_sem_seg' not in packed['data_samples']


def test_length_of_the_schedule(load):
    cfg = load('camvid_teacher', ITERATIONS='8000')
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[1].end == 8000
    assert cfg.train_cfg.val_interval == 1000
    assert cfg.default_hooks.checkpoint.interval == 1000


@pytest.mark.parametrize('name', ['camvid_teacher', 'camvid_student',
                                  'bccd_teacher', 'bccd_student',
                                  'bccd_gfl_teacher', 'bccd_gfl_student'])
def test_models_take_the_converted_weights(load, tmp_path, name):
    """What conversion writes has every key of the backbone, and no other."""
    backbone = EfficientNetLite2 if 'teacher' in name else (
        lambda: MobileNetV1(0.25))
    weights = {key: torch.full_like(value, 2)
               for key, value in backbone().state_dict().items()}
    for file in ('lite2.pth', 'mobilenetv1_x0.25.pth'):
        torch.save(weights, tmp_path / file)
    cfg = load(name, WEIGHTS=str(tmp_path))
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.init_weights()
    state = model.backbone.state_dict()
    assert state.keys() == weights.keys()
    assert all((value == 2).all() for value in state.values())
    assert model(torch.zeros(2, 3, 96, 128), mode='tensor') is not None
