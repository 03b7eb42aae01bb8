"""Labelled and unlabelled images: one forward pass of both, or two?

    python benchmarks/unlabelled_forward.py --cpu-time \\
        benchmarks/step_cost/student.py

Forward and backward of the student in CONFIG on two random batches, by one
pass over both or by a pass over each, interleaved. Then what BN does in one
pass: how far the features of the labelled images are from those without the
others beside them, where the others are like them and where they are of
another domain (darker, blue).
"""
from functools import partial

import tools_path  # noqa: F401
import torch
from measuring import (
    machine,
    make_parser,
    milliseconds,
    peak_bytes,
    table,
    told,
    write,
)
from mmengine.config import Config
from mmengine.registry import MODELS


def passes(student, *batches):
    """Forward and backward of a mean of the neck's levels, batch by batch."""
    for parameter in student.parameters():
        parameter.grad = None
    for inputs in batches:
        levels = student.extract_feat(inputs)
        sum(level.square().mean() for level in levels).backward()


def shift(student, labelled, others):
    """Relative distance of the labelled features, by ``others`` beside."""
    with torch.no_grad():
        alone = student.extract_feat(labelled)
        beside = student.extract_feat(torch.cat([labelled, others]))
    return max(float((a - b[:len(a)]).norm() / a.norm())
               for a, b in zip(alone, beside))


def main():
    parser = make_parser(__doc__.split('\n')[0], rounds=20)
    parser.add_argument('config')
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--size', type=int, nargs=2, default=(120, 160))
    args = parser.parse_args()
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    torch.manual_seed(0)
    cfg = Config.fromfile(args.config)
    student = MODELS.build(dict(cfg.model, _scope_=cfg.default_scope))
    student.to(device).train()
    first, second = torch.randn(
        2, args.batch, 3, *args.size, device=device).unbind()
    ways = {
        'labelled images alone': (first,),
        'two passes': (first, second),
        'one pass over both': (torch.cat([first, second]),)
    }
    times = {way: [] for way in ways}
    for round_ in range(args.iters + 2):
        for way, batches in ways.items():
            spent = milliseconds(partial(passes, student, *batches), device,
                                 args.cpu_time)
            if round_ >= 2:
                times[way].append(spent)
    alone = times['labelled images alone']
    rows = [[
        way, told(times[way], 1),
        told([a / b for a, b in zip(times[way], alone)], 2),
        f'{peak_bytes(partial(passes, student, *batches), device) / 2**20:.1f}'
    ] for way, batches in ways.items()]
    dark_blue = 0.3 * second - 1 + torch.tensor(
        [0., 0., 1.], device=device).view(3, 1, 1)
    apart = [shift(student, first, others) for others in (second, dark_blue)]
    write(
        machine(device, f'two batches of {args.batch}x3x{args.size[0]}x'
                f'{args.size[1]}', f'{args.iters} rounds') + '\n\n' +
        table(['forward and backward', 'ms', 'ratio', 'peak MiB'], rows) +
        '\nBN, one pass: the labelled features move by '
        f'{100 * apart[0]:.0f} % beside images like them, by '
        f'{100 * apart[1]:.0f} % beside images of another domain.', args.out)


if __name__ == '__main__':
    main()
