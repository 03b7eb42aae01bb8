"""One pass over labelled and unlabelled images, or two."""
import sys

import unlabelled_forward


def test_what_it_prints(tiny, tmp_path, monkeypatch):
    """Two passes hold what one batch holds; BN feels the other domain."""
    path, out = tmp_path / 'mine.py', tmp_path / 'table.md'
    tiny.config(tmp_path).dump(path)
    monkeypatch.setattr(sys, 'argv', [
        'unlabelled_forward.py', str(path), '--iters', '1', '--batch', '4',
        '--size', '64', '64', '--out', str(out)])
    unlabelled_forward.main()
    rows = {cells[1].strip(): float(cells[4]) for line in
            out.read_text().splitlines()[4:7] if (cells := line.split('|'))}
    assert 0 < rows['two passes'] < 1.5 * rows['labelled images alone']
    assert rows['one pass over both'] > 1.5 * rows['two passes']
    assert 'BN, one pass' in out.read_text()
