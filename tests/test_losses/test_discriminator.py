import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mmselfkd.losses.discriminator import (
    Block,
    Discriminator,
    InputNorm,
    SelfAttention,
)


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator)


def small(channels=16):
    torch.manual_seed(0)
    attention = SelfAttention(channels)
    attention.gamma.data.fill_(0.7)
    return attention


class Sizes(TorchDispatchMode):
    """Record the number of elements of the largest tensor made."""
    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (list, tuple)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


def test_input_norm_hand_value():
    x = torch.tensor([[1., 10.], [3., 10.]]).view(2, 2, 1, 1)
    norm = InputNorm(2, eps=3)
    torch.testing.assert_close(
        norm(x).flatten(1), torch.tensor([[-0.5, 0.], [0.5, 0.]]))
    norm.weight.data.fill_(4)
    norm.bias.data.fill_(1)
    torch.testing.assert_close(
        norm(x).flatten(1), torch.tensor([[-1., 1.], [3., 1.]]))


def test_input_norm_is_batch_norm_without_memory():
    norm, expected = InputNorm(3), torch.nn.BatchNorm2d(3)
    x = 5 + 3 * random(4, 3, 6, 5)
    for mode in (True, False):
        torch.testing.assert_close(norm.train(mode)(x), expected(x))
    assert not list(norm.buffers())


TWO_PROCESSES = """
import sys
import torch
from torch import distributed
from mmselfkd.losses.discriminator import InputNorm

rank, store = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group(
    'gloo', init_method='file://' + store, rank=rank, world_size=2)
torch.manual_seed(0)
x = 3 + 2 * torch.randn(4, 3, 5, 4, dtype=torch.float64)
mixing = torch.randn(4, 3, 5, 4, dtype=torch.float64)


def run(x, mixing, sync_ranks):
    # a value, a gradient and a penalty that differentiates the gradient
    norm = InputNorm(3).double()
    x = x.clone().requires_grad_()
    out = norm(x, sync_ranks)
    score = (out**2 * mixing).sum()
    slope, = torch.autograd.grad(score, x, create_graph=True)
    (slope**2).sum().backward()
    return out, slope, x.grad, norm.weight.grad


half = slice(2 * rank, 2 * rank + 2)
shared = run(x[half], mixing[half], True)
distributed.all_reduce(shared[3])
own = run(x[half], mixing[half], False)
distributed.destroy_process_group()
alone = run(x, mixing, False)
for i, (part, whole) in enumerate(zip(shared, alone)):
    if i < 3:
        whole = whole[half]
    torch.testing.assert_close(part, whole, rtol=1e-9, atol=1e-9)
assert (own[0] - alone[0][half]).abs().max() > 1e-3
"""


def test_two_processes_normalise_as_one(two_processes):
    two_processes(TWO_PROCESSES)


def test_attention_starts_as_identity():
    x = random(2, 16, 5, 3)
    assert torch.equal(SelfAttention(16)(x), x)


def test_attention_by_loops():
    attention, x = small(), random(2, 16, 3, 4)
    flat = x.flatten(2)

    def linear(name, m):
        layer = getattr(attention, name)
        return layer.weight[:, :, 0, 0] @ m + layer.bias[:, None]

    expected = flat.clone()
    for n in range(2):
        query, key, value = (linear(name, flat[n])
                             for name in ('query', 'key', 'value'))
        assert query.shape == key.shape == (2, 12)
        for i in range(12):
            energy = torch.stack([query[:, i] @ key[:, j] for j in range(12)])
            weights = energy.exp() / energy.exp().sum()
            expected[n, :, i] += 0.7 * sum(
                weights[j] * value[:, j] for j in range(12))
    torch.testing.assert_close(attention(x), expected.view_as(x))


def test_attention_differentiates_twice():
    attention = small(8).double()
    x = random(1, 8, 2, 2).double().requires_grad_()
    assert torch.autograd.gradgradcheck(attention, x, atol=1e-4)
    attention.max_side = 1
    assert torch.autograd.gradgradcheck(attention, x[..., :1], atol=1e-4)


def test_attention_is_linear_in_the_size_of_large_maps():
    x = random(1, 8, 64, 96)
    with Sizes() as sizes, torch.no_grad():
        small(8)(x)
    assert sizes.largest == 64 * 96 * 32 * 32


@pytest.mark.parametrize('size', [(1, 1), (2, 1), (3, 8), (7, 5)])
def test_block_halves_and_rounds_up(size):
    out = Block(2, 3)(random(1, 2, *size))
    assert out.shape == (1, 3, -(-size[0] // 2), -(-size[1] // 2))


@pytest.mark.parametrize('size', [(8, 6), (5, 3), (1, 1)])
def test_block_is_a_convolution_to_the_second_derivative(size):
    torch.manual_seed(0)
    block = Block(3, 5).double().eval()
    x = random(2, 3, *size).double().requires_grad_()
    matrix = block.weight
    kernel = (matrix / block.norm).view(5, 4, 4, 3).permute(0, 3, 1, 2)
    padded = F.pad(x, (1, 1 + size[1] % 2, 1, 1 + size[0] % 2))
    expected = F.leaky_relu(F.conv2d(
        padded, kernel, block.bias, stride=2), 0.1)
    found = []
    for out in (block(x), expected):
        slope, = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        found.append([out, slope, *torch.autograd.grad(
            slope.square().sum(), (x, matrix, block.bias))])
    torch.testing.assert_close(*found)


def test_two_batches_in_one_call_are_two_calls():
    torch.manual_seed(0)
    discriminator = Discriminator(4, 3).eval()
    logits, image = random(4, 4, 8, 6), random(4, 3, 9, 9, seed=1)
    logits[2:] *= 7
    torch.testing.assert_close(
        discriminator(logits, image, batches=2),
        torch.cat([discriminator(logits[half], image[half])
                   for half in (slice(2), slice(2, 4))]))


def test_the_norm_of_a_block_is_the_spectral_one():
    torch.manual_seed(0)
    block = Block(4, 8)
    with torch.no_grad():
        for _ in range(30):
            norm = block.norm
    torch.testing.assert_close(
        norm, torch.linalg.matrix_norm(block.weight, ord=2), rtol=1e-2,
        atol=0)


def test_layers():
    blocks = Discriminator(5, image_channels=3).blocks
    assert [isinstance(block, Block) for block in blocks] == [
        True, True, True, False, True, False]
    assert all(isinstance(blocks[i], SelfAttention) for i in (3, 5))
    widths = [tuple(b.weight.shape) for b in blocks if isinstance(b, Block)]
    assert widths == [(64, 128), (128, 1024), (256, 2048), (512, 4096)]


@pytest.mark.parametrize('size', [(1, 1), (1, 9), (8, 8), (33, 65)])
@pytest.mark.parametrize('image_channels', [0, 3])
def test_one_score_an_image_at_any_size(size, image_channels):
    torch.manual_seed(0)
    discriminator = Discriminator(4, image_channels)
    image = random(2, 3, 40, 50, seed=1) if image_channels else None
    out = discriminator(random(2, 4, *size), image)
    assert out.shape == (2, ) and out.isfinite().all()


def test_score_is_the_mean_of_a_map():
    torch.manual_seed(0)
    discriminator = Discriminator(4).eval()
    maps = []
    discriminator.score.register_forward_hook(
        lambda module, args, out: maps.append(out))
    score = discriminator(random(2, 4, 33, 65))
    assert maps[0].shape == (2, 1, 3, 5)
    torch.testing.assert_close(score, maps[0].mean((1, 2, 3)))


def test_batch_shift_and_scale_have_no_effect():
    torch.manual_seed(0)
    discriminator = Discriminator(4, 3).eval()
    logits, image = random(2, 4, 16, 16), random(2, 3, 16, 16, seed=1)
    torch.testing.assert_close(
        discriminator(logits, 100 + 50 * image),
        discriminator(logits, image), rtol=1e-3, atol=1e-5)


def test_image_is_resized_bilinearly():
    torch.manual_seed(0)
    discriminator = Discriminator(4, 3).eval()
    logits, image = random(2, 4, 6, 5), random(2, 3, 6, 5, seed=1)
    big = image.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(
        discriminator(logits, big), discriminator(logits, image))


def test_wrong_shapes():
    discriminator = Discriminator(4, 3)
    logits = torch.zeros(2, 4, 6, 5)
    with pytest.raises(ValueError, match=r'N, 4, H, W.*\(2, 5, 6, 5\)'):
        discriminator(torch.zeros(2, 5, 6, 5))
    with pytest.raises(ValueError, match='needs the image'):
        discriminator(logits)
    for shape in ((1, 3, 6, 5), (2, 1, 6, 5), (2, 3, 6)):
        with pytest.raises(ValueError) as error:
            discriminator(logits, torch.zeros(shape))
        assert str(shape) in str(error.value)
        assert '(2, 4, 6, 5)' in str(error.value)


def test_bad_arguments():
    with pytest.raises(ValueError, match='num_classes must be 1 .* got 0'):
        Discriminator(0)
    with pytest.raises(ValueError, match='image_channels must be 0 .* -1'):
        Discriminator(4, -1)
