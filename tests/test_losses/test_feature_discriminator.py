import pytest
import torch

from mmselfkd.losses.mixskd_loss import FeatureDiscriminator


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator)


def test_hand_value():
    # means 2 and -1; relu(2 - 1) = 1, relu(-1 - 1) = 0
    discriminator = FeatureDiscriminator(2, hidden=2)
    first, _, second = discriminator.layers
    first.weight.data.copy_(torch.eye(2))
    first.bias.data.fill_(-1)
    second.weight.data.copy_(torch.tensor([[3., 5.], [-2., 7.]]))
    second.bias.data.copy_(torch.tensor([0.5, 0.25]))
    features = torch.tensor([[1., 3.], [-4., 2.]]).view(1, 2, 1, 2)
    torch.testing.assert_close(
        discriminator(features), torch.tensor([[3.5, -1.75]]))


def test_by_loops():
    torch.manual_seed(0)
    discriminator = FeatureDiscriminator(3, hidden=5).double()
    features = random(2, 3, 4, 6).double()
    first, _, second = discriminator.layers
    for n in range(2):
        mean = [features[n, c].sum() / 24 for c in range(3)]
        hidden = [max(sum(w * m for w, m in zip(row, mean)) + b, 0)
                  for row, b in zip(first.weight, first.bias)]
        expected = [sum(w * h for w, h in zip(row, hidden)) + b
                    for row, b in zip(second.weight, second.bias)]
        torch.testing.assert_close(
            discriminator(features)[n], torch.stack(expected))


@pytest.mark.parametrize('size', [(1, 1), (1, 9), (33, 17)])
def test_two_logits_at_any_size(size):
    out = FeatureDiscriminator(4)(random(3, 4, *size))
    assert out.shape == (3, 2) and out.isfinite().all()


def test_only_the_mean_matters():
    torch.manual_seed(0)
    discriminator = FeatureDiscriminator(4)
    features = random(2, 4, 3, 5)
    flat = features.mean((2, 3), keepdim=True).expand(2, 4, 7, 2)
    torch.testing.assert_close(discriminator(flat), discriminator(features))
    # no image knows of another
    torch.testing.assert_close(
        discriminator(features[1:]), discriminator(features)[1:])


def test_layers():
    sizes = [tuple(p.shape) for p in FeatureDiscriminator(16).parameters()]
    assert sizes == [(128, 16), (128, ), (2, 128), (2, )]


@pytest.mark.parametrize('shape', [(2, 5, 6, 5), (4, 6, 5), (2, 4)])
def test_wrong_shapes(shape):
    with pytest.raises(ValueError) as error:
        FeatureDiscriminator(4)(torch.zeros(shape))
    assert '(N, 4, H, W)' in str(error.value)
    assert str(shape) in str(error.value)


def test_bad_arguments():
    with pytest.raises(ValueError, match='channels must be 1 .* got 0'):
        FeatureDiscriminator(0)
    with pytest.raises(ValueError, match='hidden must be 1 .* got -1'):
        FeatureDiscriminator(4, -1)
