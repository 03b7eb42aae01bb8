"""The equations of the losses, written down as they stand in the docstrings.

No chunk, no algebra, no care for rounding: what ``mmselfkd.losses`` is
measured against, in float32 for its cost and in float64 for its values. Every
function takes maps of the student and of the teacher (N, C, H, W), the class
labels (N, H, W) and the image, whatever it uses of them.
"""
import torch
import torch.nn.functional as F


def kd(s, t, label, image, temperature=1.0, ignore_index=255, adjust=None,
       dynamic=None):
    """Divergence of the class scores at every valid pixel."""
    tau = temperature if dynamic is None else dynamic(s, t, label != 255)
    q_s, q_t = (F.softmax(z / tau, dim=1) for z in (s, t))
    if adjust is not None:
        q_t = adjust(q_t, label)
    divergence = (tau**2 * q_t * (q_t.log() - q_s.log())).nan_to_num().sum(1)
    return divergence[label != ignore_index].mean()


def _wrong(q, label):
    """Rows (P, K), labels and first choices (P); which rows are wrong."""
    rows, label = q.movedim(1, -1).flatten(0, 2), label.flatten()
    top, label_of = rows.argmax(1), label.clamp(max=q.shape[1] - 1)
    return rows, label_of, top, (label < q.shape[1]) & (top != label)


def probability_shift(q, label):
    """The label and a wrong first choice change places."""
    rows, label, top, wrong = _wrong(q, label)
    new = rows.clone()
    for p in wrong.nonzero()[:, 0]:
        new[p, label[p]], new[p, top[p]] = rows[p, top[p]], rows[p, label[p]]
    return new.view(q.movedim(1, -1).shape).movedim(-1, 1)


def label_smoothing(q, label, correct=0.9):
    """A smoothed label in place of a wrong row."""
    rows, label, _, wrong = _wrong(q, label)
    new = rows.clone()
    for p in wrong.nonzero()[:, 0]:
        new[p] = (1 - correct) / (rows.shape[1] - 1)
        new[p, label[p]] = correct
    return new.view(q.movedim(1, -1).shape).movedim(-1, 1)


def _spread(weight, valid, temperature):
    mean = weight[valid].mean()
    return (temperature + mean - weight).clamp(min=1)[:, None].detach()


def flsw(s, t, valid, temperature=4.0):
    """Temperatures by the angle between student and teacher."""
    v, w = (z / (z.norm(dim=1, keepdim=True) + 1e-4) for z in (s, t))
    return _spread(1 - (v * w).sum(1), valid, temperature)


def cwsm(s, t, valid, temperature=4.0):
    """Temperatures by the confidence of the student."""
    return _spread(1 / (F.softmax(s, dim=1).amax(1) + 1e-3), valid,
                   temperature)


def pairwise(s, t, label, image, connection_range=None):
    """All similarities of an image, as one (P, P) matrix."""
    height, width = s.shape[2:]
    row = torch.arange(height).repeat_interleave(width)
    column = torch.arange(width).repeat(height)
    losses = []
    for one, other in zip(s.flatten(2), t.flatten(2)):
        one, other = (f / f.norm(dim=0) for f in (one, other))
        square = (one.T @ one - other.T @ other)**2
        if connection_range is not None:
            far = torch.maximum((row[:, None] - row).abs(),
                                (column[:, None] - column).abs())
            square = square[(far <= connection_range).to(square.device)]
        losses.append(square.mean())
    return torch.stack(losses).mean()


def icsd(s, t, label, image):
    """Divergences of the class maps, pair by pair."""
    def divergences(z):
        p = F.softmax(z.flatten(1), dim=1)
        log_p = p.log()
        return torch.stack([(p_i * (log_i - log_j)).sum()
                            for p_i, log_i in zip(p, log_p)
                            for log_j in log_p])

    return torch.stack([(divergences(one) - divergences(other)).square().mean()
                        for one, other in zip(s, t)]).mean()


def nfd(s, t, label, image):
    """Features less their mean, through their standard deviation."""
    s, t = ((f - f.mean((2, 3), keepdim=True))
            / (f.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
            for f in (s, t))
    return ((s - t)**2).mean()


def cwd(s, t, label, image, temperature=4.0):
    """Divergence of each channel over the positions."""
    q_s, q_t = (F.softmax(f.flatten(2) / temperature, dim=2) for f in (s, t))
    divergence = (q_t * (q_t.log() - q_s.log())).nan_to_num().sum(2)
    return temperature**2 * divergence.mean()


def fitnets(s, t, label, image):
    """Features as they are."""
    return ((s - t)**2).mean()


def pkd(s, t, label, image):
    """Half the mean square of what is standardised over the batch."""
    s, t = ((f - f.mean((0, 2, 3), keepdim=True))
            / f.std((0, 2, 3), correction=0, keepdim=True) for f in (s, t))
    return ((s - t)**2).mean() / 2


def fgd(s, t, label, image, module):
    """Image by image."""
    total = 0
    for one, other, objects, gc_s, gc_t in zip(
            s, t, fgd_objects(s), module.student_context(s),
            module.teacher_context(t)):
        def attention(f):
            c, h, w = f.shape
            return (h * w * F.softmax(f.abs().mean(0).flatten() / 0.5, 0).view(
                h, w), c * F.softmax(f.abs().mean((1, 2)) / 0.5, 0))

        (p_s, c_s), (p_t, c_t) = attention(one), attention(other)
        square = p_t * c_t[:, None, None] * (one - other)**2
        outside = (objects[0] == 0).to(s)
        total = total + (
            1e-3 * (objects * square).sum()
            + 5e-4 * (outside / outside.sum() * square).sum()
            + 5e-4 * ((p_s - p_t).abs().sum() + (c_s - c_t).abs().sum())
            + 5e-6 * ((gc_s - gc_t)**2).sum())
    return total / len(s)


def fgd_objects(maps):
    """An object of a quarter of each side, in the middle."""
    n, _, h, w = maps.shape
    objects = maps.new_zeros(n, 1, h, w)
    objects[:, :, h // 2:h // 2 + h // 4, w // 2:w // 2 + w // 4] = 1 / (
        (h // 4) * (w // 4))
    return objects


def ld(s, t, label, image):
    """Four sides, positions in the regions one by one."""
    main, valuable = ld_regions(s).unbind(1)
    s, t = (F.softmax(x.unflatten(1, (4, -1)) / 10, dim=2) for x in (s, t))
    divergence = (t * (t.log() - s.log())).sum(2).mean(1)
    return 100 * ((main + valuable) * divergence).sum() / len(s)


def ld_regions(maps):
    """Two rows of each image, and the two below them."""
    n, _, h, w = maps.shape
    regions = maps.new_zeros(n, 2, h, w)
    for region, row in enumerate((4, 6)):
        regions[:, region, row:row + 2] = 1 / (2 * w)
    return regions


def crosskd(s, t, label, image, module):
    """Of one level, with the channels standardised by their definition."""
    def crossed():
        m_s, m_t = (f.mean((0, 2, 3), keepdim=True) for f in (s, t))
        d_s, d_t = (((f - m)**2).mean((0, 2, 3), keepdim=True).sqrt()
                    for f, m in ((s, m_s), (t, m_t)))
        return (s - m_s) / (d_s + 1e-6) * d_t + m_t

    # one map stands for the features of both branches
    q, p = (torch.sigmoid(module.classes(f)) for f in (crossed(), t))
    sides, sides_t = (F.softmax(module.boxes(f).unflatten(
        1, (4, -1)), dim=2) for f in (crossed(), t))
    entropy = -(p * q.log() + (1 - p) * (1 - q).log())
    divergence = (sides_t * (sides_t / sides).log()).sum(2).mean(1)
    sure = p.amax(1)
    return ((entropy * (q - p).abs()).sum() / module.positives
            + 4 * (sure * divergence).sum() / sure.sum())


def queries(s, t, label, image):
    """Soft labels of queries that are matched, costs one by one."""
    from scipy.optimize import linear_sum_assignment

    ours, theirs = as_queries(s)[..., 0], as_queries(t)[..., 0]
    matched = []
    for one, other in zip(ours, theirs):
        p, q = F.softmax(one[:-4], dim=0), F.softmax(other[:-4], dim=0)
        b, d = one[-4:], other[-4:]
        costs = ((p[:, :, None] - q[:, None])**2).sum(0) + 5 * (
            b[:, :, None] - d[:, None]).abs().sum(0)
        (x1, y1, x2, y2), (u1, v1, u2, v2) = (
            torch.cat([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])
            for box in (b, d))

        def pairs(function, a, b):
            return function(a[:, None], b[None])

        common = (pairs(torch.minimum, x2, u2) - pairs(
            torch.maximum, x1, u1)).clamp(min=0) * (pairs(
                torch.minimum, y2, v2) - pairs(
                    torch.maximum, y1, v1)).clamp(min=0)
        around = (pairs(torch.maximum, x2, u2) - pairs(
            torch.minimum, x1, u1)) * (pairs(
                torch.maximum, y2, v2) - pairs(torch.minimum, y1, v1))
        union = pairs(torch.add, b[2] * b[3], d[2] * d[3]) - common
        costs = costs + 2 * (
            1 - common / union + (around - union) / around)
        order = linear_sum_assignment(costs.detach().cpu().numpy())[1]
        matched.append(other[:, torch.from_numpy(order).to(other.device)])
    return kd(ours[:, :-4, :, None], torch.stack(matched)[:, :-4, :, None],
              torch.zeros_like(ours[:, 0, :, None], dtype=torch.long), image)


def as_queries(maps):
    """Positions as queries, with the last four channels as boxes."""
    return torch.cat([maps[:, :-4], torch.sigmoid(maps[:, -4:])], 1).flatten(
        2)[..., None]


def dist(s, t, label, image):
    """Correlations of the rows and of the columns of (pixels, classes)."""
    def correlation(a, b):
        a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
        return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)

    s, t = (F.softmax(z, dim=1).transpose(1, 3).flatten(0, 2)
            for z in (s, t))
    return ((1 - correlation(s, t).mean())
            + (1 - correlation(s.T, t.T).mean()))


def cirkd_minibatch(s, t, label, image):
    """All similarities of each pair of images, as one (P, P) matrix."""
    s, t = (F.normalize(f, dim=1).flatten(2) for f in (s, t))
    losses = []
    for i in range(len(s)):
        for j in range(len(s)):
            q_s, q_t = (F.softmax(f[i].T @ f[j] / 0.1, dim=1) for f in (s, t))
            losses.append(
                (q_t * (q_t.log() - q_s.log())).nan_to_num().sum(1).mean())
    return torch.stack(losses).mean()


def cirkd_memory(s, t, label, image, module):
    """All similarities to the queues, as one matrix for each kind."""
    s = module.projector(s)
    s, t = (F.normalize(f, dim=1).movedim(1, 3)[label != 255]
            for f in (s, t))
    total = 0
    for queues in (module.pixels, module.regions):
        memory = queues.vectors.flatten(0, 1)
        q_s, q_t = (F.softmax(f @ memory.T / 0.1, dim=1) for f in (s, t))
        total = total + 0.1 * (
            q_t * (q_t.log() - q_s.log())).nan_to_num().sum(1).mean()
    return total


def ifvd(s, t, label, image):
    """Similarities to the mean of the class, class by class."""
    def similarity(f):
        centre = f.clone()
        for k in range(int(label[label != 255].max()) + 1):
            mask = (label == k)[:, None].to(f)
            mean = (f * mask).sum((2, 3), keepdim=True) / mask.sum(
                (2, 3), keepdim=True).clamp(min=1)
            centre = centre * (1 - mask) + mean * mask
        return F.cosine_similarity(f, centre)

    return ((similarity(s) - similarity(t))**2)[label != 255].mean()


def attnfd(s, t, label, image, module):
    """Maps behind their gates, each image of length 1."""
    gate = module.attention
    s = s * torch.sigmoid(sum(gate.layers(x) for x in (
        s.mean((2, 3)), s.amax((2, 3)))))[:, :, None, None]
    s = s * torch.sigmoid(standardised(gate.conv(torch.stack(
        [s.amax(1), s.mean(1)], 1)), gate.norm))
    s = standardised(module.connector(s), module.connector_norm)
    t = t * torch.sigmoid(t.mean((2, 3)) + t.amax((2, 3)))[:, :, None, None]
    t = t * torch.sigmoid(t.mean(1) + t.amax(1))[:, None]
    return sum(((one / one.norm() - other / other.norm())**2).sum()
               for one, other in zip(s, t)) / len(s)


def standardised(f, norm):
    """Each channel over the batch, scaled and shifted."""
    mean = f.mean((0, 2, 3), keepdim=True)
    variance = ((f - mean)**2).mean((0, 2, 3), keepdim=True)
    return (f - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias


def srd(s, t, label, image, module):
    """Both features through the classifier, and the means of the channels."""
    s = F.relu(standardised(module.connector(s), module.norm))
    classifier = module.classifier
    return (((classifier(s) - classifier(t))**2).mean()
            + ((s.mean((2, 3)) - t.mean((2, 3)))**2).mean())


def mgd(s, t, label, image, module):
    """What the generator makes of a map with three quarters masked."""
    keep = (torch.rand(len(s), 1, *s.shape[2:], device=s.device) >= 0.75)
    return ((module.generator(s * keep) - t)**2).mean()


def at(s, t, label, image):
    """Attention maps of unit length."""
    s, t = (f.abs().pow(2).mean(1).flatten(1) for f in (s, t))
    s, t = (a / a.norm(dim=1, keepdim=True) for a in (s, t))
    return ((s - t)**2).mean()


def tfd_inter(s, t, label, image):
    """The shallow map, pooled, and the first channels of the deep one."""
    channels = min(s.shape[1], t.shape[1])
    pooled = F.adaptive_avg_pool2d(s[:, :channels], t.shape[2:])
    return ((pooled - t[:, :channels])**2).mean()


def tfd_intra(s, t, label, image):
    """Each salient channel and the redundant one of its rank."""
    saliency = torch.stack([
        (t[:, c] / t[:, c].norm(dim=(1, 2), keepdim=True)).mean()
        for c in range(t.shape[1])])
    order = saliency.argsort(descending=True).tolist()
    half = len(order) // 2
    return torch.stack([
        ((s[:, order[half + k]] - t[:, order[k]])**2).mean()
        for k in range(half)]).mean()


def mixskd_feature(s, t, label, image):
    """Two maps that both learn."""
    return ((s - t)**2).mean()


def mixskd_logit(s, t, label, image):
    """Two predictions that teach each other."""
    return (kd(s, t.detach(), label, image, temperature=3.0)
            + kd(t, s.detach(), label, image, temperature=3.0))


def holistic(s, t, label, image, discriminator):
    """What the discriminator says of the student."""
    return -discriminator(s, image).mean()


def mixskd_adversarial(s, t, label, image, discriminator):
    """Two kinds of features told apart, the gradient reversed."""
    first, second = torch.tensor([1., 0.]), torch.tensor([0., 1.])
    loss = 0.5 * sum(
        F.binary_cross_entropy(
            torch.sigmoid(discriminator(f)), target.to(f).expand(len(f), 2))
        for f, target in ((s, first), (t, second)))
    return 2 * loss.detach() - loss
