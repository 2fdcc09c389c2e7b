"""What a person is told of a folder of images: kinds, what is left out, what was changed, duplicates."""

import importlib.util
import io

from meta_pseudo_labels.data.formats import image_folder
from meta_pseudo_labels.data.images import kinds
from meta_pseudo_labels.data.images.decoding import Decoding

import image_files
import numpy as np
import pytest
from own_images import TWO_CLASSES, encoded, flat, load, noise, refusal, said, values, write
from PIL import Image, features

HEIC = b'\0\0\0\x18ftypheic\0\0\0\0mif1heic' + bytes(40)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
RAW = b'II*\0' + bytes(100)  # As most cameras' files begin.
NEEDS = "HEIC, which needs 'pip install pillow-heif'"
FOREIGN = {
  'a.heic': (HEIC, NEEDS),
  'a.svg': (SVG, 'SVG'),
  'a.NEF': (RAW, 'NEF'),
  'a.jxl': (b'\xff\x0a', 'jpegxl'),
}
without_heic = pytest.mark.skipif(
  importlib.util.find_spec('pillow_heif') is not None, reason='pillow-heif is installed'
)


def deep(values):
  """A PNG of 16 bits with the values [H, W]."""
  return encoded(Image.fromarray(np.array(values, np.uint16)), 'PNG')


@pytest.fixture(name='outcomes')
def fixture_outcomes(monkeypatch):
  """A list of what prepare.prepare returns from now on."""
  found, prepare = [], image_folder.prepare.prepare

  def remember(*args, **options):
    found.append(prepare(*args, **options))
    return found[-1]

  monkeypatch.setattr(image_folder.prepare, 'prepare', remember)
  return found


# Which files are taken.


def test_every_kind_of_file_is_taken_whatever_its_suffix(tmp_path):
  taken = {
    'a.jpe': 'JPEG',
    'b.jfif': 'JPEG',
    'c.webp': 'WEBP',
    'd.tiff': 'TIFF',
    'e': 'JPEG',
    'f.jpg': 'PNG',
    'g.download': 'GIF',
    'h.BMP': 'BMP',
    'i.tga': 'TGA',
    'j.ppm': 'PPM',
    'k.jp2': 'JPEG2000',
    **({'l.avif': 'AVIF'} if features.check('avif') else {}),
  }
  options = {'WEBP': {'lossless': True}}
  files = {
    f'unlabeled/{name}': encoded(flat(100, 16, 16), kind, **options.get(kind, {}))
    for name, kind in taken.items()
  }
  lines = []
  data = load(write(tmp_path, {**TWO_CLASSES, **files}), say=lines.append)
  assert data.train.names[2:].tolist() == sorted(files)
  assert np.max(np.abs(np.asarray(data.train.inputs)[2:].astype(int) - 100)) <= 2
  assert not any('left out' in line for line in lines)


@without_heic
def test_what_cannot_be_decoded_is_left_out_of_unlabeled_and_counted_by_kind(tmp_path):
  files = {f'unlabeled/{name}': content for name, (content, _) in FOREIGN.items()}
  files['unlabeled/b.svg'] = SVG
  lines = said(write(tmp_path, {**TWO_CLASSES, 'unlabeled/1.png': 30, **files}))
  assert sorted(lines[:4]) == [
    f'left out: 1 ({NEEDS}): unlabeled/a.heic',
    'left out: 1 (NEF): unlabeled/a.NEF',
    'left out: 1 (jpegxl): unlabeled/a.jxl',
    'left out: 2 (SVG): unlabeled/a.svg, unlabeled/b.svg',
  ]
  assert lines[-1].endswith('1 unlabeled, 0 validation, 0 test')


@without_heic
@pytest.mark.parametrize('name', FOREIGN)
@pytest.mark.parametrize('split', ['labeled', 'test'])
def test_what_cannot_be_decoded_stops_the_start_among_images_with_labels(tmp_path, split, name):
  content, what = FOREIGN[name]
  data_dir = write(tmp_path, {**TWO_CLASSES, f'{split}/cat/1.png': 10, f'{split}/cat/{name}': content})
  assert refusal(data_dir) == (
    f'an image with labels cannot be decoded: {split}/cat/{name} ({what}); convert or remove it, or give '
    '--skip_bad_images'
  )
  lines = said(data_dir, skip_bad_images=True)
  assert lines[0] == f'left out: 1 ({what}): {split}/cat/{name}'


@without_heic
def test_a_class_of_heic_alone_is_told_to_be_that(tmp_path):
  message = refusal(
    write(tmp_path, {**TWO_CLASSES, 'labeled/emu/1.heic': HEIC, 'labeled/emu/2.HEIC': HEIC})
  )
  assert message.startswith(f'{tmp_path}/labeled/emu: no images but 2 ({NEEDS}); add some')


def test_heic_is_an_image_where_the_package_is(tmp_path, monkeypatch):
  monkeypatch.setattr(kinds, 'heic_is_there', lambda: True)
  # This one is damaged.
  message = refusal(write(tmp_path, {**TWO_CLASSES, 'unlabeled/a.heic': HEIC}))
  assert message.startswith(f'an image cannot be read: {tmp_path}/unlabeled/a.heic (')


@pytest.mark.parametrize('name', ['__MACOSX', '@eaDir', '.thumbnails'])
def test_helper_folders_are_no_classes_and_hold_no_images(tmp_path, name):
  files = {
    f'labeled/{name}/1.png': 99,
    f'labeled/cat/{name}/1.png': 99,
    f'unlabeled/a/{name}/1.png': 99,
    'unlabeled/a/1.png': 30,
  }
  lines = []
  data = load(write(tmp_path, {**TWO_CLASSES, **files}), say=lines.append)
  assert data.facts['class_names'] == ('cat', 'dog') and values(data.train) == [10, 20, 30]
  told = [line for line in lines if line.startswith('left out')]
  if name.startswith('.'):
    assert told == []
  else:
    assert told == [
      f'left out: 1 (a helper folder of another program): labeled/{name}/',
      f'left out: 2 (in a helper folder): labeled/cat/{name}/1.png, unlabeled/a/{name}/1.png',
    ]


def test_images_deeper_in_a_class_are_named_as_left_out(tmp_path):
  lines = said(write(tmp_path, {**TWO_CLASSES, **{f'labeled/cat/more/{n}.png': 9 for n in range(4)}}))
  assert lines[0] == (
    'left out: 4 (in a folder of a class): labeled/cat/more/0.png, labeled/cat/more/1.png, '
    'labeled/cat/more/2.png, ...'
  )


# What was changed.


def test_what_decoding_changed_is_said_in_one_line(tmp_path):
  half = np.dstack([noise(4, 4, 3), np.full([4, 4], 128, np.uint8)])
  frames = [flat(value, 9, 9).quantize(4) for value in (1, 200)]
  gif = io.BytesIO()
  frames[0].save(gif, 'GIF', save_all=True, append_images=frames[1:])
  files = {
    'labeled/cat/2.png': encoded(half, 'PNG'),
    'unlabeled/3.webp': encoded(half, 'WEBP', lossless=True),
    'unlabeled/4.jpg': image_files.jpeg(image_files.STORED[6], exif=image_files.exif(6)),
    'test/cat/5.gif': gif.getvalue(),
    'test/cat/6.png': 60,
  }
  lines = said(write(tmp_path, {**TWO_CLASSES, **files}))
  (line,) = (line for line in lines if line.startswith('images: '))
  assert line == (
    'images: 2 with transparency, composed on #ffffff; 1 turned upright as their EXIF data say; '
    '1 with several frames or pages, of which the first is taken'
  )
  lines = said(str(tmp_path), Decoding(2, square=True, background=(0, 16, 255)))
  assert any(line.startswith('images: 2 with transparency, composed on #0010ff;') for line in lines)


def test_nothing_is_said_of_images_that_are_as_they_were(tmp_path):
  (line,) = said(write(tmp_path, TWO_CLASSES))[-1:]
  assert line.startswith(f'{tmp_path}: 2 labeled images') and len(said(str(tmp_path))) == 1


@pytest.mark.parametrize('top', [200, 4095, 16383])
def test_images_of_16_bits_that_use_few_are_warned_of(tmp_path, top):
  files = {
    'labeled/cat/2.png': deep([[0, top], [3, 4]]),
    'labeled/cat/3.png': deep([[0, 5], [3, 4]]),
    'test/dog/1.png': deep([[0, 65535], [3, 4]]),
    'unlabeled/1.png': 7,
  }
  dark = [line for line in said(write(tmp_path, {**TWO_CLASSES, **files})) if 'nearly black' in line]
  assert dark == [
    f'{tmp_path}/labeled: 2 images of more than 8 bits have values up to {top} of 65535, so they become 0 '
    f'to {top >> 8} of 255, nearly black; --image_range=data scales them by the largest value'
  ]


def test_images_of_16_bits_that_use_enough_are_not_warned_of(tmp_path):
  lines = said(write(tmp_path, {**TWO_CLASSES, 'unlabeled/1.png': deep([[0, 16384], [3, 4]])}))
  assert not any('nearly black' in line for line in lines)


def test_the_own_range_scales_by_the_largest_value_of_the_folder(tmp_path):
  files = {
    'unlabeled/1.png': deep([[4095, 4095], [4095, 4095]]),
    'unlabeled/2.png': deep([[1365, 1365], [1365, 1365]]),
    'unlabeled/3.pgm': b'P5 2 2 65535\n' + np.full([2, 2], 819, '>u2').tobytes(),
  }
  data_dir = write(tmp_path, {**TWO_CLASSES, **files})
  assert values(load(data_dir).train) == [10, 20, 15, 5, 3]
  lines = []
  data = load(data_dir, own_range=True, say=lines.append)
  assert values(data.train) == [10, 20, 255, 85, 51]
  assert data.decoding == Decoding(2, square=True, depth=(0, 4095))
  assert '--image_range=data: values of more than 8 bits are scaled from 0..4095 to 0..255' in lines
  assert not any('nearly black' in line for line in lines)


def test_the_own_range_takes_numbers_of_32_bits_too(tmp_path, outcomes):
  tiff = lambda value: image_files.tiff(
    np.full([image_files.HEIGHT, image_files.WIDTH], value, '<u4'), {258: (3, 32)}
  )
  files = {'unlabeled/1.png': deep([[4095] * 2] * 2), 'unlabeled/2.tif': tiff(100_000)}
  data_dir = write(tmp_path, {**TWO_CLASSES, **files})
  assert 'unlabeled/2.tif (its values are numbers of 32 bits' in refusal(data_dir)
  assert values(load(data_dir, own_range=True).train) == [10, 20, 255, 255]
  assert outcomes[-1].images.entries['largest'].tolist() == [0, 0, 4095, 65535]


def test_the_own_range_changes_nothing_where_all_have_8_bits(tmp_path, outcomes):
  data = load(write(tmp_path, TWO_CLASSES), own_range=True)
  assert data.decoding.depth == 'high_bits' and values(data.train) == [10, 20] and len(outcomes) == 1


# Duplicates.


def warnings(data_dir, **options):
  return [line for line in said(data_dir, Decoding(8, square=True), **options) if 'WARNING' in line]


def test_duplicates_between_splits_are_counted_and_named(tmp_path):
  png = {number: encoded(noise(30, 20 + number, 3), 'PNG') for number in range(5)}
  files = {
    'labeled/cat/1.png': png[0],
    'labeled/cat/2.png': png[1],
    'labeled/dog/1.png': png[2],
    'labeled/dog/2.png': png[2],
    'validation/cat/1.png': png[0],
    'test/cat/1.png': png[0],
    'test/dog/1.png': png[1],
    'validation/dog/3.png': png[3],
    'test/dog/3.png': png[3],
    'unlabeled/1.png': png[0],  # As it is meant: nothing is measured on these.
  }
  worthless = '; what is measured on them is worthless'
  assert warnings(write(tmp_path, files)) == [
    'WARNING: 1 image is in labeled/ twice, the same byte for byte: labeled/dog/1.png and '
    'labeled/dog/2.png',
    f'WARNING: 1 image is in labeled/ and validation/, the same byte for byte{worthless}: '
    'labeled/cat/1.png and validation/cat/1.png',
    f'WARNING: 2 images are in labeled/ and test/, the same byte for byte{worthless}: '
    'labeled/cat/1.png and test/cat/1.png',
    f'WARNING: 1 image is in validation/ and test/, the same byte for byte{worthless}: '
    'validation/dog/3.png and test/dog/3.png',
  ]


def test_a_picture_in_two_formats_is_the_same_once_decoded(tmp_path):
  picture = noise(50, 41, 3)  # It is made smaller: by TensorFlow and after Pillow alike.
  files = {
    'labeled/cat/1.png': encoded(picture, 'PNG'),
    'labeled/dog/1.png': encoded(noise(40, 40, 3), 'PNG'),
    'test/cat/7.bmp': encoded(picture, 'BMP'),
    'test/dog/7.webp': encoded(picture, 'WEBP', lossless=True, exact=True),
  }
  assert warnings(write(tmp_path, files)) == [
    'WARNING: 2 images are in labeled/ and test/, the same once decoded; what is measured on them is '
    'worthless: labeled/cat/1.png and test/cat/7.bmp'
  ]


# The next start.


def test_the_next_start_decodes_what_has_changed_alone(tmp_path, outcomes):
  files = {**TWO_CLASSES, 'unlabeled/1.bmp': encoded(flat(30), 'BMP'), 'unlabeled/2.png': 40}
  data_dir = write(tmp_path, files)
  decoded = lambda: (values(load(data_dir).train), outcomes[-1].decoded)
  assert decoded() == ([10, 20, 30, 40], 4)
  assert decoded() == ([10, 20, 30, 40], 0)
  write(
    tmp_path,
    {'labeled/cat/1.png': encoded(flat(11, 3, 3), 'PNG'), 'unlabeled/3.jpg': encoded(flat(50), 'JPEG')},
  )
  assert decoded() == ([11, 20, 30, 40, 50], 2)
  (tmp_path / 'unlabeled/2.png').unlink()
  assert decoded() == ([11, 20, 30, 50], 0)
  assert decoded() == ([11, 20, 30, 50], 0)


def test_a_next_start_says_the_same(tmp_path, outcomes):
  files = {'unlabeled/1.png': deep([[0, 99], [3, 4]]), 'unlabeled/2.bmp': encoded(flat(10), 'BMP')}
  data_dir = write(tmp_path, {**TWO_CLASSES, **files, 'test/cat/1.png': 10, 'unlabeled/3.jpg': b''})
  about = lambda: [line for line in said(data_dir, skip_bad_images=True) if 'prepar' not in line]
  first = about()
  assert about() == first and outcomes[-1].decoded == 0
  words = ('an image that cannot', 'nearly black', 'WARNING')
  assert all(any(word in line for line in first) for word in words)


def test_other_options_have_a_store_of_their_own(tmp_path, outcomes):
  data_dir = write(tmp_path, TWO_CLASSES)
  for how, decoded in (
    (Decoding(2), 2),
    (Decoding(3), 2),
    (Decoding(2, background=(0, 0, 0)), 2),
    (Decoding(2), 0),
  ):
    load(data_dir, how)
    assert outcomes[-1].decoded == decoded
