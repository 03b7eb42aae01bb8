"""Two processes of batch B do what one process of batch 2 B does."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import finish, free_port

SCRIPT = Path(__file__).with_name('distributed_run.py')


def launch(hook, work_dir, batch_size, processes, norms='group',
           backend='gloo', devices=''):
    env = dict(os.environ, MASTER_ADDR='127.0.0.1',
               MASTER_PORT=str(free_port()), WORLD_SIZE=str(processes),
               OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES=devices)
    env['PYTHONPATH'] = os.pathsep.join(
        [str(SCRIPT.parents[2]), str(SCRIPT.parents[1]),
         env.get('PYTHONPATH', '')])
    finish([
        subprocess.Popen(
            [sys.executable, str(SCRIPT), hook, str(work_dir),
             str(batch_size), norms, backend],
            env=dict(env, RANK=str(rank), LOCAL_RANK=str(rank)),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(processes)
    ], timeout=300)
    return torch.load(
        work_dir / 'iter_4.pth', map_location='cpu', weights_only=False)


def test_two_processes_equal_one_of_twice_the_batch(tmp_path):
    """Student, EMA, adapters (one of them idle at first), discriminator.

    And the weights that follow from gradients, from the first iteration of
    each loss.
    """
    one = launch('frozen', tmp_path / 'one', 4, 1)
    two = launch('frozen', tmp_path / 'two', 2, 2)
    extra, other = one['mmselfkd'], two['mmselfkd']
    assert_close(one, two)
    assert_same(extra['discriminators']['loss_ho']['losses'],
                other['discriminators']['loss_ho']['losses'])
    shares, same = map(measured, (one, two))
    weights = {key for key in shares if 'weight' in key}
    assert len(weights) == 2
    assert len(shares) == 2 + 8  # share and cosine of each
    for key, values in shares.items():
        times = (1, 1) if 'late' in key else (4, 2)
        assert len(values) == times[key not in weights], key
        assert same[key] == pytest.approx(list(values), rel=1e-3, abs=1e-5)


def test_what_teaches_itself_is_the_same_too(tmp_path):
    """Self-teacher, its loss from the start, and the student's average."""
    one = launch('own', tmp_path / 'one', 4, 1)
    two = launch('own', tmp_path / 'two', 2, 2)
    assert_close(one, two)
    assert_same(one['mmselfkd']['teachers']['average']['average'],
                two['mmselfkd']['teachers']['average']['average'])


def test_with_the_statistics_of_bn_frozen(tmp_path):
    one = launch('frozen', tmp_path / 'one', 4, 1, 'frozen')
    two = launch('frozen', tmp_path / 'two', 2, 2, 'frozen')
    assert_close(one, two)


def test_losses_of_detectors(tmp_path):
    """PKD, FGD, LD and CrossKD."""
    one = launch('detector', tmp_path / 'one', 4, 1)
    two = launch('detector', tmp_path / 'two', 2, 2)
    assert_close(one, two)


@pytest.mark.skipif(not torch.cuda.is_available(),
                    reason='SyncBN of torch needs a GPU')
@pytest.mark.parametrize('hook', ['frozen', 'own'])
def test_with_synchronised_bn(tmp_path, hook):
    """One GPU for both processes, so by gloo; the self-teacher has it too.

    The one process has plain BN in its place and the images of both in a
    batch. Convolutions on a GPU are not the same to the last bit, and four
    steps carry that on.
    """
    one = launch(hook, tmp_path / 'one', 4, 1, 'synchronised', devices='0')
    two = launch(hook, tmp_path / 'two', 2, 2, 'synchronised', devices='0')
    assert_close(one, two, rtol=1e-2, atol=1e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2,
                    reason='NCCL needs a GPU for each process')
@pytest.mark.parametrize('hook', ['frozen', 'own'])
def test_by_nccl_on_two_gpus(tmp_path, hook):
    one = launch(hook, tmp_path / 'one', 4, 1, 'synchronised', devices='0')
    two = launch(hook, tmp_path / 'two', 2, 2, 'synchronised', 'nccl', '0,1')
    assert_close(one, two, rtol=1e-2, atol=1e-3)


def test_mixed_batches_keep_the_ranks_in_step(tmp_path):
    """Each rank mixes its own images; what is trained stays one."""
    saved = launch('mix', tmp_path, 2, 2)
    assert saved['mmselfkd']['discriminators']['loss_dis']['losses']
    assert all(torch.isfinite(v).all() for v in saved['state_dict'].values())


def test_a_rank_without_labels_skews_nothing(tmp_path):
    """Each valid pixel of all ranks weighs the same."""
    one = launch('ignored', tmp_path / 'one', 4, 1)
    two = launch('ignored', tmp_path / 'two', 2, 2)
    assert_same(one['state_dict'], two['state_dict'])


def test_images_without_labels_are_split_over_the_ranks(tmp_path):
    """Two ranks of half the batch are one: student and discriminator."""
    one = launch('unlabelled', tmp_path / 'one', 4, 1)
    two = launch('unlabelled', tmp_path / 'two', 2, 2)
    assert_close(one, two)
    assert_same(*(saved['mmselfkd']['discriminators']['loss_ho']['losses']
                  for saved in (one, two)))


def measured(checkpoint):
    """What the log has of the gradients."""
    return {key: buffer.data[0] for key, buffer in
            checkpoint['message_hub']['log_scalars'].items()
            if any(f'distill.{name}.' in key
                   for name in ('share', 'cosine', 'weight'))}


def assert_close(one, two, **tolerances):
    assert one['mmselfkd']['modules']
    assert_same(one['state_dict'], two['state_dict'], **tolerances)
    assert_same(one['ema_state_dict'], two['ema_state_dict'], **tolerances)
    for part in ('modules', 'ema'):
        assert_same(one['mmselfkd'][part], two['mmselfkd'][part],
                    **tolerances)


def assert_same(first, second, rtol=1e-3, atol=1e-5):
    assert first and list(first) == list(second)
    for name in first:
        torch.testing.assert_close(
            first[name], second[name], rtol=rtol, atol=atol, msg=name)
