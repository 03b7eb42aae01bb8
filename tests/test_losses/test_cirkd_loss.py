import math
import re

import pytest
import torch

import mmselfkd.losses.cirkd_loss as module
from mmselfkd.losses import (
    CIRKDMemoryLoss,
    CIRKDMiniBatchLoss,
    cirkd_memory_loss,
    cirkd_minibatch_loss,
)
from mmselfkd.losses.cirkd_loss import ClassQueues


def maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64)


def rows(image):
    """The pixels of (C, H, W) as lists of length 1."""
    return [[v / math.sqrt(sum(u * u for u in row)) for v in row]
            for row in image.flatten(1).T.tolist()]


def softmax(row, weight):
    e = [w * math.exp(v) for v, w in zip(row, weight)]
    return [v / sum(e) for v in e]


def divergence(ours, our_columns, theirs, their_columns, temperature,
               weight=None):
    """Of one pixel against columns, by loops."""
    weight = weight or [1.0] * len(our_columns)
    q, p = (
        softmax([sum(a * b for a, b in zip(row, column)) / temperature
                 for column in columns], weight)
        for row, columns in ((ours, our_columns), (theirs, their_columns)))
    return sum(b * math.log(b / a) for a, b in zip(q, p) if b > 0)


def naive_minibatch(student, teacher, temperature, weight=None):
    total = 0.0
    images = range(len(student))
    s, t = ([rows(x) for x in m] for m in (student, teacher))
    w = [[1.0] * len(s[0])] * len(s) if weight is None else (
        weight.flatten(1).tolist())
    for i in images:
        for j in images:
            total += sum(
                w[i][p] * divergence(s[i][p], s[j], t[i][p], t[j],
                                     temperature, w[j])
                for p in range(len(s[i]))) / sum(w[i])
    return total / len(student)**2


# -- pixels of the batch ------------------------------------------------------


def test_hand_value():
    # one image of two orthogonal pixels, the teacher's are the same: (1/2,
    # 1/2) against softmax(1, 0)
    student = torch.tensor([[1., 0.], [0., 1.]]).view(1, 2, 1, 2)
    a, b = math.e / (math.e + 1), 1 / (math.e + 1)
    expected = 0.5 * math.log(0.5 / a) + 0.5 * math.log(0.5 / b)
    value = cirkd_minibatch_loss(
        student, torch.ones(1, 3, 1, 2), temperature=1.0)
    assert value.item() == pytest.approx(expected)


@pytest.mark.parametrize('shape', [(1, 3, 3, 2), (3, 4, 2, 2)])
@pytest.mark.parametrize('temperature', [0.1, 1.0])
@pytest.mark.parametrize('chunk', [1, 20, 10**6])
def test_equation_in_chunks(shape, temperature, chunk, monkeypatch):
    monkeypatch.setattr(module, 'CHUNK', chunk)
    student, teacher = maps(*shape)
    teacher = torch.cat([teacher, student.flip(1)], dim=1)  # more channels
    value = cirkd_minibatch_loss(student, teacher, temperature=temperature)
    assert value.item() == pytest.approx(
        naive_minibatch(student, teacher, temperature), rel=1e-9)
    weight = maps(shape[0], 1, *shape[2:], seed=1)[0].abs()
    weight[0, 0, 0, 0] = 0
    value = cirkd_minibatch_loss(
        student, teacher, temperature=temperature, weight=weight)
    assert value.item() == pytest.approx(
        naive_minibatch(student, teacher, temperature, weight), rel=1e-9)


def test_gradient_in_chunks_is_that_of_one(monkeypatch):
    student, teacher = maps(3, 4, 4, 3)
    slopes = []
    for chunk in (1, 100, 10**6):
        monkeypatch.setattr(module, 'CHUNK', chunk)
        leaf = student.clone().requires_grad_()
        cirkd_minibatch_loss(leaf, teacher).backward()
        slopes.append(leaf.grad)
    torch.testing.assert_close(slopes[0], slopes[2])
    torch.testing.assert_close(slopes[1], slopes[2])


def test_nothing_of_the_size_of_all_pairs_is_kept():
    """Only maps and chunks: 2 x 1600 pixels have 10 million pairs."""
    student, teacher = (x.float() for x in maps(2, 4, 40, 40))
    student.requires_grad_()
    largest = 0

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    with Largest():
        cirkd_minibatch_loss(student, teacher).backward()
    assert largest <= module.CHUNK < 3200**2 / 10


def test_scale_of_a_pixel_has_no_effect():
    student, teacher = maps(2, 4, 3, 5)
    scale, other = maps(2, 1, 3, 5, seed=1).exp()
    torch.testing.assert_close(
        cirkd_minibatch_loss(scale * student, other * teacher),
        cirkd_minibatch_loss(student, teacher))


def test_channels_may_be_turned():
    student, teacher = maps(2, 4, 3, 5)
    turn, _ = torch.linalg.qr(maps(4, 4, seed=1)[0])
    turned = torch.einsum('dc,nchw->ndhw', turn, student)
    torch.testing.assert_close(
        cirkd_minibatch_loss(turned, teacher),
        cirkd_minibatch_loss(student, teacher))


def test_order_of_images_and_of_pixels_has_no_effect():
    student, teacher = maps(3, 4, 3, 5)
    expected = cirkd_minibatch_loss(student, teacher)
    for axis in (0, 2, 3):
        torch.testing.assert_close(cirkd_minibatch_loss(
            student.flip(axis), teacher.flip(axis)), expected)
    assert cirkd_minibatch_loss(student.flip(0), teacher) != pytest.approx(
        expected.item(), rel=1e-3)


def test_pool_is_the_mean_of_patches():
    student, teacher = maps(2, 4, 4, 6)
    pooled = [torch.nn.functional.avg_pool2d(x, 2)
              for x in (student, teacher)]
    torch.testing.assert_close(
        CIRKDMiniBatchLoss(pool=2)(student, teacher),
        cirkd_minibatch_loss(*pooled))


def features(images, height, width):
    return torch.empty(images, 8, height, width, device='meta')


@pytest.mark.parametrize('pool, images, size, said', [
    (None, 2, (64, 128), None),  # the paper's
    (None, 4, (64, 128), None),
    (None, 8, (64, 128), r'16 times .* pool=2 '),
    (None, 2, (256, 512), r'256 times .* pool=4 '),
    (1, 2, (256, 512), r'256 times .* pool=4 '),
    (2, 4, (256, 512), r'64 times .* pool=6 '),
    (4, 2, (256, 512), None),
    (None, 4, (256, 512), ValueError)])
def test_cost_is_told_by_what_the_paper_compares(pool, images, size, said):
    """The batch is that of the run; the maps are of two rehearsed images."""
    maps = features(2, *size)
    loss = CIRKDMiniBatchLoss(pool=pool)
    if said is ValueError:
        with pytest.raises(ValueError, match=r'pool=6 .*, or pool=1 '):
            loss.check_cost(images, maps, maps)
        return
    advice = loss.check_cost(images, maps, maps)
    assert (advice is None) == (said is None)
    if said is not None:
        assert re.search(said, advice)
        better = int(re.search(r'pool=(\d+)', advice)[1])
        assert CIRKDMiniBatchLoss(pool=better).check_cost(
            images, maps, maps) is None


def test_a_cpu_is_given_less():
    maps = torch.empty(2, 1, 200, 200)
    with pytest.raises(ValueError, match=r'23.8 times .* pool=4 .*pool=1'):
        CIRKDMiniBatchLoss().check_cost(2, maps, maps)
    assert '23.8 times' in CIRKDMiniBatchLoss(pool=1).check_cost(2, maps, maps)
    assert CIRKDMiniBatchLoss(pool=4).check_cost(2, maps, maps) is None
    memory = CIRKDMemoryLoss(num_classes=7)
    said = memory.check_cost(2, maps, maps)
    found = dict(re.findall(r'(\w+_samples)=(\d+)', said))
    assert '1.8 times the pairs' in said
    assert CIRKDMemoryLoss(num_classes=7, **{
        name: int(value) for name, value in found.items()}).check_cost(
            2, maps, maps) is None


@pytest.mark.parametrize('options', [dict(temperature=0), dict(pool=0)])
def test_bad_argument_of_minibatch(options):
    name, = options
    with pytest.raises(ValueError, match=name):
        CIRKDMiniBatchLoss(**options)


@pytest.mark.parametrize('size', [(4, 1), (1, 4)])
def test_a_row_or_a_column_has_pixels_to_compare(size):
    level = torch.rand(1, 2, *size)
    CIRKDMiniBatchLoss().check(level, level)
    with pytest.raises(ValueError, match='pool=4'):
        CIRKDMiniBatchLoss(pool=4).check(level, level)


# -- pixels against a memory --------------------------------------------------


@pytest.mark.parametrize('chunk', [1, 10**6])
@pytest.mark.parametrize('kd_temperature', [1.0, 3.0])
def test_memory_equation(chunk, kd_temperature, monkeypatch):
    monkeypatch.setattr(module, 'CHUNK', chunk)
    student, teacher = maps(2, 3, 2, 4)
    memory = rows(maps(3, 5, 1, seed=1)[0])
    label = torch.zeros(2, 4, 8).long()
    label[1, 2:] = 255
    weight = maps(2, 1, 2, 4, seed=2)[0].abs()
    total = norm = 0.0
    for n in range(2):
        for p, (a, b, w) in enumerate(zip(
                rows(student[n]), rows(teacher[n]), weight[n].flatten())):
            if n == 1 and p >= 4:  # the ignored row
                continue
            total += w * divergence(
                a, memory, b, memory, 0.2 * kd_temperature)
            norm += w
    value = cirkd_memory_loss(
        student, teacher, label=label, weight=weight,
        memory=torch.tensor(memory), temperature=0.2,
        kd_temperature=kd_temperature)
    assert value.item() == pytest.approx(
        kd_temperature**2 * float(total / norm), rel=1e-6)


def test_memory_gradient():
    student, teacher = maps(2, 3, 2, 4)
    teacher.requires_grad_()
    memory = torch.tensor(rows(maps(3, 5, 1, seed=1)[0])).requires_grad_()
    label = torch.zeros(2, 2, 4).long()
    label[0, 0] = 255
    student.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: cirkd_memory_loss(
            s, teacher.detach(), memory=memory.detach().double(),
            label=label), student)
    cirkd_memory_loss(
        student, teacher, memory=memory, label=label).backward()
    assert teacher.grad is None and memory.grad is None
    assert student.grad[0, :, 0].abs().max() == 0
    assert student.grad[0, :, 1].abs().max() > 0


def test_memory_of_other_channels_is_refused():
    student, teacher = maps(2, 3, 2, 4)
    with pytest.raises(ValueError, match=r'memory must have shape \(M, 3\)'):
        cirkd_memory_loss(student, teacher, memory=torch.zeros(5, 4))


# -- queues -------------------------------------------------------------------


def numbered(*numbers):
    return torch.tensor(numbers, dtype=torch.float32)[:, None]


def test_queues_start_with_unit_vectors():
    queues = ClassQueues(3, 5, 7)
    torch.testing.assert_close(
        queues.vectors.norm(dim=2), torch.ones(3, 5))
    assert set(queues.state_dict()) == {'slots', 'places'}


def test_oldest_goes_first():
    queues = ClassQueues(2, 3, 1)
    queues.vectors.zero_()
    queues.push(numbered(1, 2, 3, 4), torch.tensor([0, 1, 0, 1]))
    assert queues.vectors[..., 0].tolist() == [[1, 3, 0], [2, 4, 0]]
    queues.push(numbered(5, 6), torch.tensor([0, 0]))
    assert queues.vectors[..., 0].tolist() == [[6, 3, 5], [2, 4, 0]]
    assert queues.places.tolist() == [1, 2]
    # more than there is room for
    queues.push(numbered(*range(7, 12)), torch.ones(5).long())
    assert sorted(queues.vectors[1, :, 0].tolist()) == [9, 10, 11]
    queues.push(numbered(12), torch.tensor([1]))
    assert sorted(queues.vectors[1, :, 0].tolist()) == [10, 11, 12]
    queues.push(numbered(13), torch.tensor([2]))  # of no class
    assert sorted(queues.vectors[1, :, 0].tolist()) == [10, 11, 12]


def test_no_place_is_written_twice():
    """Which of two writes stays is not defined on a GPU."""
    written = []

    class Writes(torch.utils._python_dispatch.TorchDispatchMode):

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if 'index_put' in str(func):
                written.extend(args[1][0].tolist())
            return func(*args, **(kwargs or {}))

    queues = ClassQueues(2, 3, 1)
    with Writes():
        queues.push(numbered(*range(9)), torch.tensor([0, 2, 1] * 3))
        assert sorted(written) == [0, 1, 2, 3, 4, 5, 6, 6, 6]  # 6: of none
        written.clear()
        queues.push(numbered(*range(8)), torch.zeros(8).long())
    assert sorted(written) == [0, 1, 2] + [6] * 5


def test_samples_are_of_every_class():
    queues = ClassQueues(2, 10, 1)
    queues.vectors.copy_(torch.arange(20).view(2, 10, 1))
    drawn = queues.sample(4)[:, 0].tolist()
    assert len(set(drawn)) == 8
    assert sum(v < 10 for v in drawn) == 4
    assert [v + 10 for v in drawn[:4]] == drawn[4:]
    assert queues.sample(50)[:, 0].tolist() == list(range(20))


# -- pixels of earlier batches ------------------------------------------------


def remembering(**options):
    return CIRKDMemoryLoss(**dict(dict(
        num_classes=3, pixel_memory=40, region_memory=6, pixels_per_class=4),
        **options))


def labelled():
    """Teacher features that say their class, and labels with ignored ones."""
    label = torch.tensor([[0, 0, 1, 1], [1, 1, 255, 2]]).repeat_interleave(
        3, 1)[None].repeat(2, 1, 1)  # (2, 2, 12)
    label[1] = 1
    teacher = torch.zeros(2, 4, 2, 12)
    for c in range(3):
        teacher[:, c][label == c] = 1
    teacher[:, 3] = torch.rand(2, 2, 12)
    teacher[(label == 255)[:, None].expand_as(teacher)] = 7
    return torch.rand(2, 5, 2, 12), teacher, label


def test_queues_hold_the_pixels_of_their_class():
    student, teacher, label = labelled()
    loss = remembering()
    loss(student, teacher, label=label)
    # class 0: 6 pixels of one image, of which 4; 1: 4 of each; 2: only 3
    assert loss.pixels.places.tolist() == [4, 8, 3]
    assert loss.regions.places.tolist() == [1, 2, 1]
    seen = teacher / teacher.norm(dim=1, keepdim=True)
    for c, count in enumerate((4, 8, 3)):
        found = loss.pixels.vectors[c, :count]
        of_class = seen.movedim(1, 3)[label == c]
        distance = (found[:, None] - of_class).abs().amax(2)
        assert distance.amin(1).max() < 1e-6
        nearest = distance.argmin(1).tolist()
        assert len(set(nearest)) == count  # no pixel twice
    for c, image, place in ((0, 0, 0), (1, 0, 0), (1, 1, 1), (2, 0, 0)):
        mean = seen[image].movedim(0, 2)[label[image] == c].mean(0)
        torch.testing.assert_close(
            loss.regions.vectors[c, place], mean / mean.norm())


def test_chosen_pixels_vary():
    student, teacher, label = labelled()
    loss = remembering()
    loss(student, teacher, label=label)
    first = loss.pixels.vectors[0, :4].clone()
    loss(student, teacher, label=label)
    assert not torch.equal(loss.pixels.vectors[0, 4:8], first)
    assert torch.equal(loss.pixels.vectors[0, :4], first)


def test_value_is_that_of_both_terms_on_the_updated_queues():
    student, teacher, label = labelled()
    loss = remembering(pixel_weight=0.3, region_weight=0.2)
    value = loss(student, teacher, label=label)
    projected = loss.projector(student)
    terms = [cirkd_memory_loss(projected, teacher, label=label,
                               memory=queues.vectors.flatten(0, 1))
             for queues in (loss.pixels, loss.regions)]
    torch.testing.assert_close(value, 0.3 * terms[0] + 0.2 * terms[1])
    assert CIRKDMemoryLoss().pixel_weight == 0.1
    assert CIRKDMemoryLoss().region_weight == 0.1


def test_eval_remembers_nothing():
    student, teacher, label = labelled()
    loss = remembering()
    loss.build(student, teacher, None)
    before = loss.pixels.vectors.clone()
    loss.eval()(student, teacher, label=label)
    assert loss.pixels.places.tolist() == [0, 0, 0]
    assert torch.equal(loss.pixels.vectors, before)


def test_padding_is_neither_remembered_nor_compared():
    student, teacher, label = labelled()
    weight = torch.ones(2, 1, 2, 12)
    weight[:, :, 1] = 0
    other = [x.clone() for x in (student, teacher)]
    other[1][:, :, 1] = -3
    values = []
    for s, t in ((student, teacher), other):
        torch.manual_seed(0)
        loss = remembering()
        values.append(loss(s, t, label=label, weight=weight))
        assert loss.regions.places.tolist() == [1, 2, 0]
    torch.testing.assert_close(*values)


def test_gradient_for_student_and_projector_only():
    student, teacher, label = labelled()
    student.requires_grad_(), teacher.requires_grad_()
    loss = remembering()
    loss(student, teacher, label=label).backward()
    assert teacher.grad is None and student.grad.abs().max() > 0
    assert all(p.grad.abs().max() > 0 for p in loss.parameters())
    assert len(list(loss.parameters())) == 4


def test_without_a_labelled_pixel_the_value_is_0():
    student, teacher, label = labelled()
    student.requires_grad_()
    loss = remembering()
    value = loss(student, teacher, label=torch.full_like(label, 255))
    value.backward()
    assert value == 0 and student.grad.abs().max() == 0
    assert all(p.grad.abs().max() == 0 for p in loss.parameters())
    assert loss.pixels.places.tolist() == [0, 0, 0]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_float32(dtype):
    student, teacher, label = labelled()
    values = []
    for autocast in (False, True):
        torch.manual_seed(0)
        loss = remembering()
        s, t = student.to(dtype), teacher.to(dtype)
        if not autocast:
            s, t = s.float(), t.float()
        s.requires_grad_()
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
            values.append(loss(s, t, label=label))
        values[-1].backward()
        assert values[-1].dtype == torch.float32
        assert s.grad.isfinite().all() and s.grad.dtype == s.dtype
    torch.testing.assert_close(*values)


@pytest.mark.parametrize('options', [
    dict(pixel_weight=-1.), dict(region_weight='1'), dict(temperature=0),
    dict(kd_temperature=0), dict(pixel_memory=0), dict(region_memory=1.5),
    dict(pixel_samples=0), dict(region_samples=0), dict(pixels_per_class=0),
    dict(num_classes=0), dict(ignore_index='none')])
def test_bad_argument_of_memory(options):
    name, = options
    with pytest.raises(ValueError, match=name):
        CIRKDMemoryLoss(**options)


def test_cost_of_a_memory_is_told():
    def cost(images, size, **options):
        maps = features(2, *size)
        return CIRKDMemoryLoss(num_classes=19, **options).check_cost(
            images, maps, maps)

    assert cost(2, (64, 128)) is None
    assert cost(4, (256, 512), pixel_memory=9, region_memory=9) is None
    said = cost(4, (256, 512))
    found = dict(re.findall(r'(\w+_samples)=(\d+)', said))
    assert '32 times' in said and found.keys() == {
        'pixel_samples', 'region_samples'}
    assert cost(4, (256, 512), **{
        name: int(value) for name, value in found.items()}) is None


def test_what_is_missing_is_named():
    student, teacher, label = labelled()
    with pytest.raises(ValueError, match='label must'):
        remembering()(student, teacher)
    with pytest.raises(ValueError, match='num_classes must'):
        CIRKDMemoryLoss()(student, teacher, label=label)


TWO_PROCESSES = """
import sys
import torch
from torch import distributed
from mmselfkd.losses import CIRKDMemoryLoss

rank, store = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group(
    'gloo', init_method='file://' + store, rank=rank, world_size=2)
torch.manual_seed(0)
student, teacher = torch.randn(2, 4, 5, 6, 6)
label = torch.randint(3, (4, 6, 6))
label[3] = 255  # the second rank has fewer
label[2, 0] = 2
options = dict(num_classes=3, pixel_memory=300, region_memory=9,
               pixels_per_class=100)  # all of them
mine = slice(2 * rank, 2 * rank + 2)


def call(part, sync_ranks):
    torch.manual_seed(1)
    loss = CIRKDMemoryLoss(**options)
    loss.sync_ranks = sync_ranks
    loss.build(student, teacher, None)
    leaf = student.clone().requires_grad_()
    value = loss(leaf[part], teacher[part], label=label[part])
    value.backward()
    return loss, value.detach(), leaf.grad[mine]


whole, expected, slope = call(slice(4), False)
loss, value, half = call(mine, True)
distributed.all_reduce(value)
torch.testing.assert_close(value / 2, expected)
torch.testing.assert_close(half / 2, slope)  # DDP takes the mean
for name in ('pixels', 'regions'):
    ours, theirs = getattr(loss, name), getattr(whole, name)
    assert torch.equal(ours.places, theirs.places)
    for queue, other in zip(ours.vectors, theirs.vectors):
        # which pixel comes first is drawn
        torch.testing.assert_close(
            queue.sort(0).values, other.sort(0).values)
    first = ours.vectors.clone()
    distributed.broadcast(first, src=0)
    assert torch.equal(first, ours.vectors)
distributed.destroy_process_group()
"""


def test_ranks_share_their_queues(two_processes):
    two_processes(TWO_PROCESSES)


def test_queues_that_are_longer_than_the_data():
    loss = CIRKDMemoryLoss(
        num_classes=3, pixel_memory=200, region_memory=40, pixels_per_class=4)
    loss.fit_data(50)
    with pytest.raises(ValueError, match=(
            'pixel_memory = 200: longer than the data; 49 images of 4 pixels '
            'put 196 .*196 or fewer')):
        loss.fit_data(49)
    loss = CIRKDMemoryLoss(num_classes=3, region_memory=40)
    with pytest.raises(ValueError, match='region_memory = 40.*39 or fewer'):
        loss.fit_data(39)


@pytest.mark.parametrize('images, lengths', [
    (None, (20000, 2000)), (9, (144, 9)), (10**4, (20000, 2000))])
def test_queues_are_no_longer_than_the_data(images, lengths):
    loss = CIRKDMemoryLoss(num_classes=2)
    if images is not None:
        loss.fit_data(images)
    loss.build(torch.rand(1, 4, 2, 2), torch.rand(1, 3, 2, 2), None)
    assert tuple(queues.vectors.shape[1] for queues in (
        loss.pixels, loss.regions)) == lengths
