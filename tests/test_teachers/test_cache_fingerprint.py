"""What a cached answer depends on, part by part."""
import copy
import hashlib
import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmselfkd.errors import ConfigError
from mmselfkd.teachers.cache_fingerprint import (
    file_hash,
    fingerprint,
    plain,
    state_hash,
    teacher_config,
    weight_files,
)


def test_the_order_of_keys_is_no_difference():
    assert fingerprint(dict(a=1, b=dict(c=2, d=3))) == fingerprint(
        dict(b=dict(d=3, c=2), a=1))
    assert fingerprint(dict(a=[1, 2])) != fingerprint(dict(a=[2, 1]))


def test_a_file_is_hashed_to_its_end(tmp_path):
    path = tmp_path / 'weights.pth'
    content = bytes(range(256)) * 2**13  # 2 MiB: several blocks
    hashes = []
    for last in b'\x00\x01':
        path.write_bytes(content + bytes([last]))
        hashes.append(file_hash(str(path)))
        assert hashes[-1] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert hashes[0] != hashes[1]
    assert file_hash(str(tmp_path / 'none.pth')) is None


def changed(name):
    """A convolution and its statistics, one thing in them changed."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    with torch.no_grad():
        if name == 'a weight':
            model[0].weight[0, 0] += 1e-6
        elif name == 'a statistic':
            model[1].running_mean[0] += 1e-6
        elif name == 'a name':
            model = nn.ModuleDict({'a': model[0], 'b': model[1]})
        elif name == 'a shape':
            model[0].weight = nn.Parameter(model[0].weight.flatten())
        elif name == 'a type':  # of the same bytes
            model[0].weight = nn.Parameter(
                model[0].weight.view(torch.int32), requires_grad=False)
    return model


def test_all_of_a_state_counts():
    hashes = [state_hash(changed(name)) for name in (
        None, 'a weight', 'a statistic', 'a name', 'a shape', 'a type')]
    assert len(set(hashes)) == len(hashes)
    assert state_hash(changed(None)) == hashes[0]
    assert state_hash(changed(None).eval()) == hashes[0]


class Inner:

    class Conv2d:
        """Not torch's."""


def test_what_a_config_can_hold():
    value = dict(
        a=(1, 2.5, None, True), b=torch.tensor([[1, 2]]), c=np.eye(2),
        d=nn.Conv2d, e=Inner.Conv2d, f=json.dumps, g={3: 'x'},
        h=slice(1, 2))
    found = plain(value, 'data')
    assert found == dict(
        a=[1, 2.5, None, True], b=[[1, 2]], c=[[1., 0.], [0., 1.]],
        d='torch.nn.modules.conv.Conv2d', e=f'{__name__}.Inner.Conv2d',
        f='json.dumps', g={'3': 'x'}, h='slice(1, 2, None)')
    assert json.loads(json.dumps(found)) == found
    with pytest.raises(ConfigError, match='data: holds a object, which '
                       'cannot be told from another one'):
        plain(dict(a=[object()]), 'data')
    with pytest.raises(ConfigError, match='^teacher: holds a object'):
        teacher_config(dict(type='FrozenTeacher', a=object()), 'teacher')


def test_a_set_has_no_order():
    """Python orders strings anew in each process, these by who was first."""
    assert repr({0, 8}) != repr({8, 0})
    assert plain({0, 8}, 'data') == plain({8, 0}, 'data') == [0, 8]
    assert plain(frozenset('ba'), 'data') == ['a', 'b']


MODEL = dict(type='EncoderDecoder', width=8)
DATA = dict(dataset=dict(metainfo=dict(classes=['road', 'car'])))


@pytest.fixture
def parts(tmp_path):
    """Of a teacher whose config is in a file; ``parts(model=...)``."""

    def parts(name='teacher', classes=None, **contents):
        path = tmp_path / f'{name}.py'
        Config(copy.deepcopy(dict(
            dict(model=MODEL, train_dataloader=DATA), **contents))).dump(path)
        cfg = dict(type='FrozenTeacher', config=str(path),
                   checkpoint=f'{name}.pth', trust_checkpoint=name == 'other')
        return teacher_config(cfg if classes is None else dict(
            cfg, classes=classes), 'teacher')

    return parts


def test_of_a_config_file_the_model_counts(parts):
    alone = parts()
    assert parts('other') == alone
    assert parts(optim_wrapper=dict(lr=1.), train_dataloader=dict(
        batch_size=3)) == alone
    for changes in (dict(model=dict(MODEL, width=9)),
                    dict(default_scope='mmdet'),
                    dict(custom_imports=dict(imports=['json']))):
        assert parts(**changes) != alone


def test_under_a_class_map_the_names_count(parts):
    """By their order it is known which score is which class."""
    swapped = dict(train_dataloader=dict(
        dataset=dict(metainfo=dict(classes=['car', 'road']))))
    assert parts(**swapped) == parts()
    by_name = dict(by='name')
    assert parts(classes=by_name) == parts('other', classes=by_name)
    assert parts(classes=by_name, **swapped) != parts(classes=by_name)


def test_weights_are_found_wherever_they_are(tmp_path):
    (tmp_path / 'a_file').touch()
    cfg = dict(
        config=dict(model=dict(init_cfg=dict(checkpoint='backbone.pth'))),
        teachers=[dict(checkpoint='a.pth'), dict(
            checkpoint='https://b.org/b.safetensors')],
        checkpoint='c.ckpt', other=str(tmp_path / 'a_file'), by='mean')
    assert list(weight_files(cfg)) == [
        'a.pth', 'https://b.org/b.safetensors', 'c.ckpt',
        str(tmp_path / 'a_file')]
    assert teacher_config(cfg, 'teacher')['teachers'] == [
        dict(checkpoint=''), dict(checkpoint='')]
