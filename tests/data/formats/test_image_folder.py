"""One's own images in folders: what becomes of them, and of folders that are not right."""

import os
import struct

from meta_pseudo_labels.data.images import decode
from meta_pseudo_labels.data.images.decoding import Decoding
from meta_pseudo_labels.data.store.reading import Prepared

import numpy as np
import pytest
from own_images import TWO_CLASSES, encoded, flat, load, noise, refusal, said, values, write
from PIL import Image

LAYOUT = 'images go into labeled/<class>/ and unlabeled/ (validation/<class>/ and test/<class>/)'
HINT = 'or give --skip_bad_images'
ADD = 'add some (JPEG, PNG, WebP, TIFF, ...), or remove the folder'
WHOLE = {
  'labeled/dog/b.png': 4,
  'labeled/dog/A.PNG': 3,
  'labeled/cat/10.png': 0,
  'labeled/cat/9.png': 1,
  'labeled/cat-big/x.png': 2,
  'labeled/dog/.hidden.png': 99,
  'labeled/dog/notes.txt': b'',
  'labeled/README': b'',
  'labeled/.checkpoints/x.png': 99,
  'unlabeled/z/deep/er/1.png': 7,
  'unlabeled/a.png': 5,
  'unlabeled/b/c.png': 6,
  'unlabeled/b/.d.png': 99,
  'unlabeled/.hidden/e.png': 99,
  'unlabeled/f.doc': b'',
  'validation/dog/1.png': 8,
  'test/cat/2.png': 9,
  'test/cat-big/1.png': 10,
  'test/dog/1.png': 11,
}


def test_a_whole_folder_in_order(tmp_path):
  lines = []
  data = load(write(tmp_path, WHOLE), say=lines.append)
  assert data.facts['class_names'] == ('cat', 'cat-big', 'dog')
  # Class by class, then the unlabeled ones, by name: '10' comes before '9', 'A' before 'b'.
  assert values(data.train) == list(range(8)) and data.train.inputs.shape == (8, 2, 2, 3)
  assert data.train.labels.tolist() == [0, 0, 1, 2, 2, -1, -1, -1]
  assert (values(data.validation), data.validation.labels.tolist()) == ([8], [2])
  assert (values(data.test), data.test.labels.tolist()) == ([9, 10, 11], [0, 1, 2])
  assert data.train.labels.dtype == data.test.labels.dtype == np.int32
  assert data.unlabeled_extra is None
  assert data.train.names[2] == 'labeled/cat-big/x.png'
  assert lines[0] == (
    'left out: 3 files that are no images: labeled/README, labeled/dog/notes.txt, unlabeled/f.doc'
  )
  assert lines[-1] == (
    f'{tmp_path}: 5 labeled images in 3 classes (1 to 2 each), 3 unlabeled, 1 validation, 3 test'
  )


def test_a_whole_folder_at_sizes_of_their_own(tmp_path):
  data_dir = write(tmp_path, WHOLE)
  squares, data = load(data_dir), load(data_dir, Decoding(9))
  for split in ('train', 'validation', 'test'):
    found, expected = getattr(data, split), getattr(squares, split)
    assert isinstance(found.inputs, Prepared) and len(found.inputs) == len(found)
    assert found.inputs.side is None and np.array_equal(found.labels, expected.labels)
    read = found.inputs.reader()
    assert np.array_equal([read(n) for n in range(len(found))], np.asarray(expected.inputs))
  assert data.train.inputs.name(2) == 'labeled/cat-big/x.png'


def test_two_classes_are_enough(tmp_path):
  lines = []
  data = load(write(tmp_path, TWO_CLASSES) + '/', say=lines.append)
  assert values(data.train) == [10, 20] and data.train.labels.tolist() == [0, 1]
  assert data.validation is None and data.test is None
  assert lines[-1] == (
    f'{tmp_path}/: 2 labeled images in 2 classes (1 to 1 each), 0 unlabeled, 0 validation, 0 test'
  )


def test_images_of_every_form_and_shape_are_fitted(tmp_path):
  forms = {
    'gray.png': (noise(5, 7), 'PNG'),
    'alpha.png': (noise(9, 5, 4), 'PNG'),
    'photo.jpg': (noise(30, 20, 3), 'JPEG'),
    'cmyk.jpeg': (flat(90).convert('CMYK'), 'JPEG'),
    'first.gif': (Image.fromarray(noise(6, 6, 3)).quantize(4), 'GIF'),
    'bits.bmp': (noise(4, 8), 'BMP'),
  }
  files = {f'unlabeled/{name}': encoded(*form) for name, form in forms.items()}
  how = Decoding(5, square=True)
  data = load(write(tmp_path, {**TWO_CLASSES, **files}), how)
  expected = [how.in_graph(files[name])[0] for name in sorted(files)]
  assert np.array_equal(np.asarray(data.train.inputs)[2:], expected)
  assert data.decoding == how


# What is wrong with a folder.


def test_folders_that_are_not_there(tmp_path):
  assert refusal(str(tmp_path / 'missing')) == f'--data_dir={tmp_path}/missing: not a folder; {LAYOUT}'
  assert refusal(None) == f'--data_dir=None: not a folder; {LAYOUT}'
  assert refusal(str(tmp_path)) == f'--data_dir={tmp_path}: no folder labeled/; {LAYOUT}'
  write(tmp_path, {'labeled/cat/1.png': 1, 'labeled/2.png': 1, 'labeled/.dog/3.png': 1})
  assert refusal(str(tmp_path)) == (
    f'{tmp_path}/labeled: 1 class folders; make at least 2, each with the images of one class'
  )


def test_an_image_beside_the_class_folders_is_no_reason_to_stop_but_is_named(tmp_path):
  lines = said(write(tmp_path, {**TWO_CLASSES, 'labeled/2.png': 1}))
  assert lines[0] == 'left out: 1 (outside of the class folders): labeled/2.png'


@pytest.mark.parametrize('name', ['labeled/emu', 'unlabeled', 'validation/cat', 'test/dog'])
def test_folders_without_images(tmp_path, name):
  data_dir = write(tmp_path, {**TWO_CLASSES, f'{name}/.1.png': 1, f'{name}/2.svg': b'<svg/>'})
  but = ' but 1 (SVG)'
  if name == 'test/dog':
    (tmp_path / name / '.1.png').unlink()
    (tmp_path / name / '2.svg').unlink()
    but = ''
  elif name == 'labeled/emu':
    write(tmp_path, {f'{name}/deeper/3.png': 1})
    but = ' but 1 (SVG), 1 (in a folder of a class)'
  assert refusal(data_dir) == f'{tmp_path}/{name}: no images{but}; {ADD}'


def test_classes_that_labeled_does_not_have(tmp_path):
  write(tmp_path, {**TWO_CLASSES, 'validation/1.png': 1})
  assert refusal(str(tmp_path)) == (
    f'{tmp_path}/validation: 0 class folders; make at least 1, each with the images of one class, or '
    'remove the folder'
  )
  middle = f'a class that {tmp_path}/labeled does not have'
  write(tmp_path, {'validation/dogs/1.png': 1})
  assert (
    refusal(str(tmp_path))
    == f"{tmp_path}/validation/dogs: {middle} (did you mean 'dog'?); rename the folder or remove it"
  )
  (tmp_path / 'validation').rename(tmp_path / 'test')
  (tmp_path / 'test/dogs').rename(tmp_path / 'test/zebra')
  assert refusal(str(tmp_path)) == f'{tmp_path}/test/zebra: {middle}; rename the folder or remove it'


@pytest.mark.parametrize('end', [b'.png', b''])
@pytest.mark.parametrize('below', ['labeled/cat', 'unlabeled/a'])
def test_files_whose_names_are_not_utf8_are_read(tmp_path, below, end):
  write(tmp_path, {**TWO_CLASSES, f'{below}/1.png': 30})
  path = os.fsencode(tmp_path / below) + b'/\xff' + end
  with open(path, 'wb') as file:
    file.write(encoded(flat(40), 'PNG'))
  data = load(str(tmp_path))
  assert sorted(values(data.train)) == ([20, 30, 40] if 'cat' in below else [10, 20, 30, 40])
  with open(path, 'wb') as file:
    file.write(b'no image')
  if end:
    assert f'{below}/\udcff.png (' in refusal(str(tmp_path))


def test_class_folders_whose_names_are_not_utf8_are_refused(tmp_path):
  write(tmp_path, TWO_CLASSES)
  os.mkdir(os.fsencode(tmp_path / 'labeled') + b'/\xff')
  assert refusal(str(tmp_path)).startswith(f'{tmp_path}/labeled: cannot be listed (')


# Damaged images.


def bmp_with(position, value, depth=1):
  """A BMP of 2 x 2 pixels with one 32-bit number changed."""
  content = encoded(noise(2, 2, depth)[..., 0] if depth == 1 else noise(2, 2, depth), 'BMP')
  return content[:position] + struct.pack('<i', value) + content[position + 4 :]


DAMAGED = {
  'empty.png': (b'', 'it is empty'),
  'text.gif': (b'no image', 'it is no kind of image that is known'),
  'html.jpg': (b'<!doctype html><p>404', 'it is a text (HTML, XML, SVG or JSON), not an image'),
  'short.jpg': (encoded(noise(64, 64, 3), 'JPEG')[:-800], 'it cannot be decoded: '),
  'short.png': (encoded(noise(64, 64, 3), 'PNG')[:-800], 'it cannot be decoded: '),
  'short.gif': (encoded(noise(64, 64), 'GIF')[:-800], 'it cannot be decoded: '),
  'short.bmp': (encoded(noise(64, 64), 'BMP')[:-800], 'it cannot be decoded: '),
  'narrow.bmp': (bmp_with(18, 0), 'it begins like a bmp file, but is damaged'),
  'low.bmp': (bmp_with(22, 0), 'it begins like a bmp file, but is damaged'),
  'order.bmp': (bmp_with(30, 3, depth=4), 'it cannot be decoded: '),
}


@pytest.mark.parametrize('name', DAMAGED)
def test_damaged_images_are_named(tmp_path, name):
  content, reason = DAMAGED[name]
  message = refusal(write(tmp_path, {**TWO_CLASSES, f'labeled/cat/{name}': content}))
  assert message.startswith(f'an image cannot be read: {tmp_path}/labeled/cat/{name} ({reason}')
  assert message.endswith(f'); remove it, {HINT}')
  assert '{{' not in message and '[Op' not in message


def test_images_with_a_palette_are_right(tmp_path):
  # TensorFlow takes its indices for gray levels.
  content = encoded(flat(7).quantize(2), 'BMP')
  assert values(load(write(tmp_path, {**TWO_CLASSES, 'unlabeled/colors.bmp': content})).train)[2] == 7


def test_images_without_pixels(tmp_path, monkeypatch):
  # No file is known of which a decoder makes one.
  nothing = decode.Image(np.zeros([0, 4, 3], np.uint8), decode.facts.Facts('bmp', 0, 4))
  monkeypatch.setattr(decode, 'decode', lambda *_: nothing)
  files = {**TWO_CLASSES, 'labeled/cat/2.bmp': encoded(flat(3), 'BMP')}
  message = refusal(write(tmp_path, files), Decoding(2))
  assert message.startswith(f'an image cannot be read: {tmp_path}/labeled/cat/2.bmp (it has no pixels')
  assert message.endswith(f'); remove it, {HINT}')


def test_three_of_many_damaged_images_are_named_and_all_are_in_a_file(tmp_path):
  bad = ['labeled/dog/0.png', 'labeled/dog/2.png', 'unlabeled/1.png', 'unlabeled/2.jpg']
  data_dir = write(tmp_path, {**TWO_CLASSES, **dict.fromkeys((bad[0], bad[3]), b''), bad[2]: b'?'})
  (tmp_path / bad[1]).symlink_to(tmp_path / 'nothing')
  message = refusal(data_dir)
  start, report = message.split('; all are in ')
  assert start == (
    f'4 images cannot be read: {tmp_path}/{bad[0]} (it is empty); {tmp_path}/{bad[1]} '
    f'(No such file or directory); {tmp_path}/{bad[2]} (it is no kind of image that is known)'
  )
  report, rest = report.split('; ')
  assert rest == f'remove them, {HINT}' and report.startswith(f'{tmp_path}.cache/')
  with open(report, encoding='utf-8') as file:
    lines = [line.rstrip('\n').split('\t') for line in file]
  assert [line[0] for line in lines] == [f'{tmp_path}/{name}' for name in bad]
  assert all(len(line) == 2 and line[1] for line in lines)


def test_damaged_images_are_left_out_if_asked(tmp_path):
  bad = ['labeled/cat/a.png', 'labeled/dog/a.png', 'unlabeled/0.png', 'test/cat/9.png']
  lines = []
  data_dir = write(tmp_path, {**WHOLE, **dict.fromkeys(bad, b'')})
  data = load(data_dir, skip_bad_images=True, say=lines.append)
  (line,) = (line for line in lines if line.startswith('left out 4'))
  assert line.startswith(
    'left out 4 images that cannot be read: {0}/{1} (it is empty); {0}/{2} (it is empty); {0}/{3}'.format(
      tmp_path, *bad
    )
  )
  assert lines[-1].startswith(f'{tmp_path}: 5 labeled images in 3 classes (1 to 2 each), 3 unlabele')
  for name in bad:
    (tmp_path / name).unlink()
  expected = load(data_dir)
  for split in ('train', 'validation', 'test'):
    found, wanted = getattr(data, split), getattr(expected, split)
    assert np.array_equal(found.labels, wanted.labels)
    assert np.array_equal(found.names, wanted.names)
    assert np.array_equal(np.asarray(found.inputs), np.asarray(wanted.inputs))


def test_a_class_of_which_nothing_is_left(tmp_path):
  lines = []
  data_dir = write(tmp_path, {'labeled/cat/1.png': 1, 'labeled/dog/1.png': b'no image'})
  assert refusal(data_dir, skip_bad_images=True, say=lines.append) == (
    'labeled/dog: no image in it can be read; add some, or remove the folder'
  )
  assert any(line.startswith(f'left out an image that cannot be read: {data_dir}/lab') for line in lines)
