import numpy as np

from densedistill.data.occlusion import seen_in_both


def test_a_pixel_is_seen_where_its_counterpart_lies_in_the_image_and_agrees_to_a_pixel():
    left = np.float32([[2.6, 1, 2.5, 2, 2, 2, 0, np.inf, np.nan]])
    right = np.float32([[2, 3, 3.25, np.nan, 9, 9, 9, 9, 9]])
    #          outside, agrees, half a pixel outside, 1 px off, 1.25 px off, right unknown, left unknown
    expected = [[False, True, True, True, False, False, False, False, False]]
    np.testing.assert_array_equal(seen_in_both(left, right), expected)
