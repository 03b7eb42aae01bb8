"""cache_teacher.py: everything is asked beforehand, as training would."""
import os
import sys

import cache_teacher
import pytest
import tiny_runs
import torch
from helpers import KD, assert_equal, record, train
from mmengine.config import Config
from mmengine.registry import MODELS

from mmselfkd.hooks import filling
from mmselfkd.teachers import ModelTeacher


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Configs of runs that see 5 images in 3 views in batches of 2.

    Training pads them, as evaluation would not.
    """
    monkeypatch.setattr(Config, 'pretty_text', '')
    path = tmp_path / 'teacher.pth'
    torch.save(MODELS.build(dict(tiny_runs.model(8), _scope_='mmseg')
                            ).state_dict(), path)

    def make(cache=True):
        teacher = tiny_runs.teacher(checkpoint=str(path))
        if cache:
            teacher['cache'] = dict(
                dir=str(tmp_path / 'cache'), precision='fp32')
        cfg = tiny_runs.config(tmp_path / 'run', dict(
            type='mmselfkd.DistillHook', teacher=teacher,
            losses=dict(loss_kd=KD)), iters=8, log_level='INFO',
            # mmengine gives runs of one name and second one logger
            experiment_name=tmp_path.name,
            **{'default_hooks.checkpoint': None,
               'model.data_preprocessor.size': (40, 40)})
        cfg.train_dataloader.dataset.update(length=5, serialize_data=False)
        return record(cfg, 3)

    return make


@pytest.fixture
def tool(make, tmp_path, monkeypatch):
    """Runs the tool; gives how many images the teacher was asked for."""
    asked, teach = [], ModelTeacher.teach

    def counting(self, context, sources):
        asked.append(len(context.inputs))
        return teach(self, context, sources)

    monkeypatch.setattr(ModelTeacher, 'teach', counting)
    write(make(), tmp_path / 'config.py')

    def run(*flags):
        del asked[:]
        monkeypatch.setattr(sys, 'argv', [
            'cache_teacher.py', str(tmp_path / 'config.py'), '--work-dir',
            str(tmp_path / 'filling'), *flags])
        cache_teacher.main()
        return asked[2:]  # the first two are the rehearsal's

    return run


def write(cfg, path):
    path.write_text('\n'.join(
        f'{name} = {value!r}' for name, value in cfg.to_dict().items()))


def stored(tmp_path):
    return sorted((tmp_path / 'cache').rglob('*.safetensors'))


def test_training_need_not_ask(make, tool, tmp_path, capsys):
    assert tool() == [2] * 8  # 15 images in whole batches
    assert len(stored(tmp_path)) == 15
    said = capsys.readouterr().out
    assert '15 of 15 answers of this rank, ' in said
    assert 'the teacher need not run again' in said
    live = train(make(False))[1].entries
    os.remove(tmp_path / 'teacher.pth')
    assert_equal(live, train(make())[1].entries)


def test_it_goes_on_where_it_was_stopped(tool, tmp_path):
    tool()
    for path in stored(tmp_path)[2:5]:
        os.remove(path)
    assert tool() == [2] * 2
    assert len(stored(tmp_path)) == 15
    assert tool() == []


def test_ranks_share_the_work(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(filling, 'get_world_size', lambda: 2)
    for rank, batches in enumerate((4, 4)):
        monkeypatch.setattr(filling, 'get_rank', rank.__int__)
        (tmp_path / str(rank)).mkdir()
        if rank:  # both begin with an empty folder
            os.rename(tmp_path / 'cache', tmp_path / '0' / 'cache')
        assert tool() == [2] * batches
    first, second = ({path.name for path in folder.rglob('*.safetensors')}
                     for folder in (tmp_path / '0', tmp_path / 'cache'))
    assert len(first | second) == 15 and len(first & second) <= 1


def test_a_limit_ends_it(tool, tmp_path, capsys):
    assert len(tool('--cfg-options', 'custom_hooks.0.teacher.cache.limit=3KB'
                    )) < 8
    assert 'the limit of 3.0 KB is reached' in capsys.readouterr().out


def test_a_config_without_a_cache(tool, tmp_path):
    with pytest.raises(SystemExit, match='ConfigError: custom_hooks: no '
                       'teacher of a distillation hook has `cache`; write'):
        tool('--cfg-options', 'custom_hooks.0.teacher.cache=None')


def test_a_config_without_distillation(make, tool, tmp_path):
    """The hook comes by the flags of train.py; batches stay whole in fp16."""
    cfg = make()
    cfg.custom_hooks = []
    write(cfg, tmp_path / 'config.py')
    write(Config(tiny_runs.teacher()['config']), tmp_path / 'teacher.py')
    assert tool('--method', 'SKDHook', '--teacher',
                str(tmp_path / 'teacher.py'), '--teacher-checkpoint',
                str(tmp_path / 'teacher.pth'),
                '--method-options', 'losses.loss_ho=None',
                f'teacher.cache.dir={tmp_path / "cache"}') == [2] * 8
