"""The quick way for JPEG files against the general one, on every kind of file."""

from meta_pseudo_labels.data.images import decoding

import image_kinds
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

CONTENTS = {kind.name: kind.make() for kind in image_kinds.KINDS}
TURNED = [kind.name for kind in image_kinds.KINDS if kind.facts.get('turned')]
JPEGS = [name for name, content in CONTENTS.items() if content.startswith(b'\xff\xd8\xff')]
SMALL = [name for name, content in CONTENTS.items() if decoding.claimed_pixels(content[:4096]) < 10**7]
PLAIN = [
  name for name in SMALL if decoding.is_plain_jpeg(CONTENTS[name][:4096])
]  # Others are sorted out before.


def test_turned_files_and_other_formats_are_not_plain():
  assert set(PLAIN) <= set(JPEGS) and len(PLAIN) > 5
  assert set(TURNED) & set(JPEGS) and not set(TURNED) & set(PLAIN)


@pytest.mark.parametrize('side, square', [(8, True), (8, False), (1000, False)])
def test_a_plain_file_becomes_the_same_pixels_both_ways(side, square):
  how, compared = decoding.Decoding(side, square), 0
  for name in PLAIN:
    try:
      wanted, facts = how.in_graph(CONTENTS[name])
    except tf.errors.InvalidArgumentError:
      with pytest.raises(tf.errors.InvalidArgumentError):
        how.plain_in_graph(CONTENTS[name])
      continue
    pixels, noted = how.plain_in_graph(CONTENTS[name])
    np.testing.assert_array_equal(pixels, wanted, err_msg=name)
    np.testing.assert_array_equal(noted, facts, err_msg=name)
    compared += 1
  assert compared > 5


@pytest.mark.parametrize('orientation, plain', [(1, True), (6, False), (9, False)])
def test_a_photo_with_exif_data_is_plain_if_it_is_upright(tmp_path, orientation, plain):
  exif = Image.Exif()
  exif[0x0112] = orientation
  Image.new('RGB', (20, 10)).save(tmp_path / 'photo.jpg', exif=exif)
  content = (tmp_path / 'photo.jpg').read_bytes()
  assert decoding.is_plain_jpeg(content[:4096]) == plain
  assert not decoding.is_plain_jpeg(content[:40])  # The rest may say anything.
