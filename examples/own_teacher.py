"""A teacher of your own: any ``nn.Module`` with weights from a file.

``python examples/own_teacher.py`` trains a small vision transformer on toy
data in plain PyTorch, saves its weights as ``vit.pth`` and lets it teach. In
your project keep model and teacher in a module of yours, say
``own_teacher.py``. Your config imports it and names the teacher::

    custom_imports = dict(imports=['own_teacher'])
    custom_hooks = [
        dict(
            type='mmselfkd.NFDHook',
            teacher=dict(type='ViTTeacher', checkpoint='vit.pth'),
            losses=dict(loss_nfd=dict(
                source=dict(student='features', teacher='blocks'))))
    ]
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmselfkd.datasets.toy_scenes import make_scene
from mmselfkd.hosts import InputFormat
from mmselfkd.registry import TEACHERS
from mmselfkd.teachers import ModelTeacher


class ViT(nn.Module):
    """A plain vision transformer that classifies patches.

    ``patch_embed.proj`` and ``cls_token`` are the usual names. By these the
    run knows the grid of the tokens, and makes maps of them. Where yours have
    other names, register a host that says it (``docs/guides/extending.md``).
    """

    def __init__(self, classes: int, width: int = 96, patch: int = 8,
                 depth: int = 4) -> None:
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, width, 8, 8) * 0.02)
        self.blocks = nn.Sequential(*(
            nn.TransformerEncoderLayer(
                width, 4, 2 * width, dropout=0., batch_first=True,
                norm_first=True) for _ in range(depth)))
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed.proj(images)
        patches = patches + F.interpolate(
            self.position, patches.shape[2:], mode='bicubic')
        tokens = torch.cat((self.cls_token.expand(len(images), -1, -1),
                            patches.flatten(2).transpose(1, 2)), 1)
        scores = self.head(self.blocks(tokens)[:, 1:])
        return scores.transpose(1, 2).unflatten(2, patches.shape[2:])


@TEACHERS.register_module()
class ViTTeacher(ModelTeacher):
    """The vision transformer with the weights of a file.

    Args:
        checkpoint (str): A file of ``torch.save(vit.state_dict(), file)``.
        classes (int): What it was trained on.
    """

    def __init__(self, checkpoint: str, classes: int = 7) -> None:
        vit = ViT(classes)
        vit.load_state_dict(torch.load(checkpoint, weights_only=True))
        # What it was trained with: RGB, where the pipelines of the hosts read
        # BGR; from -1 to 1; sides that are multiples of its patch. The run
        # brings the student's batch to that, and cuts the padding off again.
        super().__init__(vit, InputFormat(
            mean=[127.5] * 3, std=[127.5] * 3, is_swapped=True, multiple=8))
        # It is called with the images. Override `calls` for another way.


def train_vit(checkpoint: str, steps: int) -> None:
    """What you have done already: a training of your own."""
    torch.manual_seed(0)
    vit = ViT(classes=7)
    optimizer = torch.optim.AdamW(vit.parameters(), lr=1e-3)
    scenes = [make_scene(i) for i in range(32)]
    images = torch.stack([
        torch.from_numpy(scene.image[..., ::-1].copy()).permute(2, 0, 1)
        for scene in scenes]) / 127.5 - 1
    labels = torch.stack([torch.from_numpy(s.seg_map) for s in scenes]).long()
    for step in range(steps):
        picked = torch.arange(step, step + 8) % len(images)
        scores = F.interpolate(vit(images[picked]), (64, 64), mode='bilinear')
        loss = F.cross_entropy(scores, labels[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"the teacher's last loss: {loss:.4f}")
    torch.save(vit.state_dict(), checkpoint)


if __name__ == '__main__':
    from toy_run import train

    train_vit('vit.pth', steps=40)
    train('work_dirs/own_teacher', dict(
        type='mmselfkd.NFDHook',
        teacher=dict(type='ViTTeacher', checkpoint='vit.pth'),
        losses=dict(loss_nfd=dict(
            source=dict(student='features', teacher='blocks')))))
