"""What a test of the hosts keeps, and the pictures made of it."""
import json

import numpy as np
import pytest
import torch
from comparison_runs import write_run
from mmengine.config import Config
from mmengine.registry import RUNNERS

from mmselfkd.comparison import pictures
from mmselfkd.comparison.recording import EVALUATION, FINAL, evaluate
from mmselfkd.comparison.results import PLAIN, read_results

CONFIGS = dict(seg='fpn_r18-w8_1xb8-1k_toy-64x64',
               depth='depth_r18-w8_1xb8-1k_toy-64x64',
               det='fcos_r18-w8_1xb8-1k_toy-96x96')
KEYS = dict(seg='mIoU', depth='rmse', det='coco/bbox_mAP')
EXAMPLES = 6


@pytest.fixture(scope='module', params=list(CONFIGS))
def task(request, root, tmp_path_factory):
    """Two students that nobody has trained, tested and written down."""
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    cfg = Config.fromfile(root / 'configs' / 'toy' / f'{CONFIGS[name]}.py')
    cfg.val_dataloader.dataset.length = EXAMPLES
    cfg.test_dataloader = cfg.val_dataloader
    cfg.log_level = 'ERROR'
    if name == 'det':
        cfg.model.test_cfg.score_thr = 0.
    path = folder / 'config.py'
    cfg.dump(str(path))
    evaluations = []
    for seed, method in enumerate((PLAIN, 'NFDHook')):
        run = Config(cfg.to_dict())
        run.randomness = dict(seed=seed)
        run.work_dir = str(folder / 'work' / str(seed))
        run.experiment_name = f'{name}{seed}'
        runner = RUNNERS.build(run)
        runner.model.init_weights()
        if name == 'det':  # objects are found by chance, if at all
            truths = [sample['data_samples'].gt_instances
                      for sample in runner.test_dataloader.dataset]
            predict = runner.model.test_step

            def cheat(data, seed=seed, predict=predict, truths=truths):
                results = predict(data)
                for i, (result, truth) in enumerate(zip(results, truths)):
                    if i % 2 == seed:
                        result.pred_instances = type(truth)(
                            bboxes=pictures.tensor(truth.bboxes),
                            labels=truth.labels,
                            scores=torch.ones(len(truth)))
                return results

            runner.model.test_step = cheat
        found = evaluate(runner)
        evaluations.append(found)
        written = write_run(folder, method, 0, 1., KEYS[name],
                            config=path, **found)
        torch.save(dict(state_dict=runner.model.state_dict()),
                   written / FINAL)
    return name, folder, evaluations


def test_it_is_the_hosts_numbers(task):
    name, _, evaluations = task
    for found in evaluations:
        assert KEYS[name] in found['metrics']
        assert len(found['images']) == EXAMPLES
        json.dumps(found)
        if name == 'seg':
            counts = np.array(found['confusion'])
            right = np.diag(counts)
            with np.errstate(invalid='ignore'):
                iou = 100 * right / (counts.sum(0) + counts.sum(1) - right)
            by_class = list(found['classes'].values())
            np.testing.assert_allclose(by_class, iou, rtol=1e-5)
            assert np.nanmean(by_class) == pytest.approx(
                found['metrics']['mIoU'], abs=0.006)
            # equal images: their mean is that of the pixels
            assert 100 * np.mean(found['images']) == pytest.approx(
                found['metrics']['aAcc'], abs=0.006)
        elif name == 'det':
            assert len(found['classes']) == 6 and found['classes'][
                'striped disc'] == found['metrics'][
                    'coco/striped disc_precision']
            assert 'coco/bbox_mAP_s' in found['metrics']
        else:
            assert found['classes'] == {} and max(found['images']) < 0
    if name == 'det':
        one, other = (found['images'] for found in evaluations)
        assert one[::2] == other[1::2] == [1., 1., 1.]
        assert max(one[1::2] + other[::2]) < 1


def test_pictures_of_the_largest_gain_and_loss(task):
    name, folder, evaluations = task
    group, = read_results([folder]).groups
    gains = np.subtract(evaluations[1]['images'], evaluations[0]['images'])
    rows = list(pictures.make_rows(group))
    chosen = [int(row.title.split('image ')[1].split(',')[0]) for row in rows]
    assert chosen == pictures.choose(gains) != []
    titles = ['input', 'ground truth', PLAIN, 'NFDHook', 'disagreement']
    if name == 'depth':
        titles.insert(3, f'error of {PLAIN}')
        titles.insert(5, 'error of NFDHook')
    for row in rows:
        assert [picture.title for picture in row.pictures] == titles
        for _, image in row.pictures:
            assert image.dtype == np.uint8 and image.shape[2] == 3


def test_a_checkpoint_that_is_gone(task):
    _, folder, _ = task
    group, = read_results([folder]).groups
    group.runs[1].folder = folder / 'elsewhere'
    with pytest.raises(ValueError, match='there is no such file'):
        list(pictures.make_rows(group))


def test_the_choice():
    gains = np.array([0., .3, -.1, .2, .5, -.4])
    assert pictures.choose(gains) == [4, 1, 5, 2]
    assert pictures.choose(np.zeros(3)) == [] == pictures.choose(np.zeros(0))
    assert pictures.choose(np.array([.1, .2, .3])) == [2, 1]


def test_objects_that_are_found():
    """By a box of their class among the surest, as many as there are."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData
    sample = DetDataSample()
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[0., 0, 10, 10], [20, 20, 30, 30],
                             [40, 40, 50, 50]]), labels=torch.arange(3))
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor([[40., 40, 50, 50], [0, 0, 10, 9],
                             [20, 20, 30, 30], [0, 0, 1, 1]]),
        labels=torch.tensor([2, 0, 2, 0]),
        scores=torch.tensor([.1, .9, .8, .7]))
    assert pictures.found_objects(sample) == [True, False, False]


def test_a_file_is_written_as_a_whole(tmp_path):
    from mmselfkd.comparison.recording import write_json
    write_json(tmp_path / EVALUATION, dict(a=1))
    with pytest.raises(TypeError):
        write_json(tmp_path / EVALUATION, dict(a=object()))
    assert json.loads((tmp_path / EVALUATION).read_text()) == dict(a=1)
