"""KeepLabels: which images stay labelled."""
import numpy as np
import pytest

from mmselfkd.datasets import KeepLabels


def labelled(one_in, count=9, **kwargs):
    transform = KeepLabels(one_in, **kwargs)
    full = np.full((2, 3), 4, np.uint8)
    maps = [transform(dict(sample_idx=i, gt_seg_map=full.copy()))
            ['gt_seg_map'] for i in range(count)]
    return [int(m[0, 0]) for m in maps]


def test_one_image_in_n_keeps_its_labels():
    assert labelled(4) == [4, 255, 255, 255, 4, 255, 255, 255, 4]
    assert labelled(1, 3) == [4, 4, 4]
    assert labelled(2, 3, ignore_index=0) == [4, 0, 4]
    assert labelled(2, 3, ignore_index=-100) == [4, -100, 4]


@pytest.mark.parametrize('one_in', [0, -1, 2.5, '8', True])
def test_refuses_what_is_no_positive_integer(one_in):
    with pytest.raises(ValueError, match='one_in = '):
        KeepLabels(one_in)


@pytest.mark.parametrize('label', [None, 'head', 0.5])
def test_refuses_what_is_no_label(label):
    with pytest.raises(ValueError, match='ignore_index = '):
        KeepLabels(2, ignore_index=label)
