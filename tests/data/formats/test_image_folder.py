"""One's own images in folders: files that Pillow writes, read by TensorFlow."""

import io
import os
import struct

from meta_pseudo_labels.data import storage
from meta_pseudo_labels.data.augment import crops
from meta_pseudo_labels.data.formats import image_folder
from meta_pseudo_labels.data.images import decode
from meta_pseudo_labels.errors import UserError

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

TWO_CLASSES = {'labeled/cat/1.png': 10, 'labeled/dog/1.png': 20}
KINDS = 'images (.jpg .jpeg .png .bmp .gif)'
LAYOUT = 'images go into labeled/<class>/ and unlabeled/ (validation/<class>/ and test/<class>/)'
HINT = 'or give --skip_bad_images'


def noise(*shape):
  """uint8 of that shape, the same every time."""
  return np.random.RandomState(sum(shape)).randint(0, 256, shape).astype(np.uint8)


def flat(value, width=2, height=2):
  """An image of one color."""
  return Image.fromarray(np.full((height, width, 3), value, np.uint8))


def encoded(image, kind, **options):
  """The bytes of an image file. image: a Pillow image, or uint8 [H, W(, C)]."""
  file = io.BytesIO()
  image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
  image.save(file, kind, **options)
  return file.getvalue()


def write(root, files):
  """Writes {path under root: bytes, or a color for a PNG of 2 x 2 pixels}; returns str(root)."""
  for path, content in files.items():
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content if isinstance(content, bytes) else encoded(flat(content), 'PNG'))
  return str(root)


def load(data_dir, **options):
  """image_folder.read, by default 2 x 2 pixels in memory."""
  return image_folder.read(data_dir, **{'image_size': 2, 'in_memory': True, **options})


def refusal(data_dir, **options):
  """The one line that `load` refuses with."""
  with pytest.raises(UserError) as caught:
    load(data_dir, **options)
  assert '\n' not in str(caught.value)
  return str(caught.value)


def values(found):
  """The value of each image of one color."""
  images = found.inputs
  assert images.dtype == np.uint8 and np.all(images == images[:, :1, :1, :1])
  return images[:, 0, 0, 0].tolist()


# A whole folder.

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
  'unlabeled/f.webp': b'',
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
  assert lines == [
    f'{tmp_path}: 5 labeled images in 3 classes (1 to 2 each), 3 unlabeled, '
    '1 validation, 3 test; 7 other files ignored'
  ]


def test_a_whole_folder_left_in_its_files(tmp_path):
  data_dir = write(tmp_path, WHOLE)
  in_memory, data = load(data_dir), load(data_dir, in_memory=False, image_size=None)
  for split in ('train', 'validation', 'test'):
    found, expected = getattr(data, split), getattr(in_memory, split)
    assert isinstance(found.inputs, storage.Files) and len(found.inputs) == len(found)
    assert np.array_equal(found.labels, expected.labels)
    contents = found.inputs.reader()(tf.range(len(found), dtype=tf.int64))
    assert np.array_equal([crops.decode(content) for content in contents], expected.inputs)
  assert data.train.inputs.name(2) == f'{tmp_path}/labeled/cat-big/x.png'


def test_two_classes_are_enough(tmp_path):
  lines = []
  data = load(write(tmp_path, TWO_CLASSES) + '/', say=lines.append)
  assert values(data.train) == [10, 20] and data.train.labels.tolist() == [0, 1]
  assert data.validation is None and data.test is None
  assert lines == [
    f'{tmp_path}/: 2 labeled images in 2 classes (1 to 1 each), 0 unlabeled, 0 validation, 0 test'
  ]


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
  data = load(write(tmp_path, {**TWO_CLASSES, **files}), image_size=5)
  expected = [crops.fit(crops.decode(files[name]), 5) for name in sorted(files)]
  assert np.array_equal(data.train.inputs[2:], expected)


# What is wrong with a folder.


def test_folders_that_are_not_there(tmp_path):
  end = f'is not a folder: point --data_dir at one whose {LAYOUT}'
  assert refusal(str(tmp_path / 'missing')) == f"'{tmp_path}/missing' {end}"
  assert refusal(None) == f'None {end}'
  assert refusal(str(tmp_path)) == f'{tmp_path} has no folder labeled/: {LAYOUT}'
  write(tmp_path, {'labeled/cat/1.png': 1, 'labeled/2.png': 1, 'labeled/.dog/3.png': 1})
  assert refusal(str(tmp_path)) == (
    f'{tmp_path}/labeled has 1 class folders: make at least two, each with the images of one class'
  )
  assert refusal(str(tmp_path), image_size=0) == ('image_size=0 is out of range: give 1 pixel or more')


@pytest.mark.parametrize('name', ['labeled/emu', 'unlabeled', 'validation/cat', 'test/dog'])
def test_folders_without_images(tmp_path, name):
  data_dir = write(tmp_path, {**TWO_CLASSES, f'{name}/.1.png': 1, f'{name}/2.tiff': b''})
  if name == 'test/dog':
    (tmp_path / name / '.1.png').unlink()
    (tmp_path / name / '2.tiff').unlink()
  elif name == 'labeled/emu':
    write(tmp_path, {f'{name}/deeper/3.png': 1})
  assert refusal(data_dir) == f'{tmp_path}/{name} has no {KINDS}: add some, or remove the folder'


def test_classes_that_labeled_does_not_have(tmp_path):
  write(tmp_path, {**TWO_CLASSES, 'validation/1.png': 1})
  assert refusal(str(tmp_path)) == (
    f'{tmp_path}/validation has no class folders: put images into validation/<class>/, or remove it'
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


@pytest.mark.parametrize('below', ['labeled/cat', 'unlabeled/a'])
def test_names_that_are_not_utf8(tmp_path, below):
  write(tmp_path, {**TWO_CLASSES, f'{below}/1.png': 1})
  with open(os.fsencode(tmp_path / below) + b'/\xff.png', 'wb'):
    pass
  top = below.replace('/a', '')
  assert refusal(str(tmp_path)).startswith(f"cannot list {tmp_path}/{top}: 'utf-8' codec can't ")


# Damaged images.


def bmp_with(position, value, depth=1):
  """A BMP of 2 x 2 pixels with one 32-bit number changed."""
  content = encoded(noise(2, 2, depth)[..., 0] if depth == 1 else noise(2, 2, depth), 'BMP')
  return content[:position] + struct.pack('<i', value) + content[position + 4 :]


DAMAGED = {
  'empty.png': (b'', 'Input is empty.'),
  'text.gif': (b'no image', 'Unknown image file format.'),
  'short.jpg': (encoded(noise(64, 64, 3), 'JPEG')[:-800], 'jpeg::Uncompress failed.'),
  'short.png': (encoded(noise(64, 64, 3), 'PNG')[:-800], 'Invalid PNG data'),
  'short.gif': (encoded(noise(64, 64), 'GIF')[:-800], 'Invalid GIF data'),
  'short.bmp': (encoded(noise(64, 64), 'BMP')[:-800], 'Input size should match'),
  'narrow.bmp': (bmp_with(18, 0), 'Width must be positive'),
  'low.bmp': (bmp_with(22, 0), ''),
  'colors.bmp': (
    encoded(flat(7).quantize(2), 'BMP'),
    'it is a BMP with a color palette, which TensorFlow takes for gray levels: ',
  ),
  'order.bmp': (
    bmp_with(30, 3, depth=4),
    'it is a BMP with its channels in an order that TensorFlow does not know: ',
  ),
}


@pytest.mark.parametrize('name', DAMAGED)
@pytest.mark.parametrize('in_memory', [True, False])
def test_damaged_images_are_named(tmp_path, name, in_memory):
  content, reason = DAMAGED[name]
  message = refusal(write(tmp_path, {**TWO_CLASSES, f'labeled/cat/{name}': content}), in_memory=in_memory)
  assert message.startswith(f'cannot read the image {tmp_path}/labeled/cat/{name}: {reason}')
  assert message.endswith(f': remove it, {HINT}')
  assert '{{' not in message and '[Op' not in message


def test_images_without_pixels(tmp_path, monkeypatch):
  # No file is known of which TensorFlow's decoder makes one.
  monkeypatch.setattr(decode, 'decode', lambda content: tf.zeros([0, 4, 3], tf.uint8))
  assert refusal(write(tmp_path, TWO_CLASSES)) == (
    f'cannot read 2 images, the first is {tmp_path}/labeled/cat/1.png: it has no pixels (4 x 0): '
    f'remove them, {HINT}'
  )


def test_several_damaged_images_are_counted(tmp_path):
  data_dir = write(tmp_path, {**TWO_CLASSES, 'labeled/dog/0.png': b'', 'unlabeled/1.png': b'?'})
  (tmp_path / 'labeled/dog/2.png').symlink_to(tmp_path / 'nothing')
  assert refusal(data_dir) == (
    f'cannot read 3 images, the first is {tmp_path}/labeled/dog/0.png: Input is empty.: remove '
    f'them, {HINT}'
  )


@pytest.mark.parametrize('in_memory', [True, False])
def test_damaged_images_are_left_out_if_asked(tmp_path, in_memory):
  bad = ['labeled/cat/a.png', 'labeled/dog/a.png', 'unlabeled/0.png', 'test/cat/9.png']
  lines = []
  data_dir = write(tmp_path, {**WHOLE, **dict.fromkeys(bad, b'')})
  data = load(data_dir, in_memory=in_memory, skip_bad_images=True, say=lines.append)
  assert lines[0] == 'left out 4 that cannot be read: {0}/{1}, {0}/{2}, {0}/{3}, ...'.format(
    tmp_path, *bad
  )
  assert lines[1].startswith(f'{tmp_path}: 5 labeled images in 3 classes (1 to 2 each), 3 unlabele')
  for name in bad:
    (tmp_path / name).unlink()
  expected = load(data_dir, in_memory=in_memory)
  for split in ('train', 'validation', 'test'):
    found, wanted = getattr(data, split), getattr(expected, split)
    assert np.array_equal(found.labels, wanted.labels)
    assert np.array_equal(*(x.inputs if in_memory else x.inputs.paths for x in (found, wanted)))


def test_a_class_of_which_nothing_is_left(tmp_path):
  lines = []
  data_dir = write(tmp_path, {'labeled/cat/1.png': 1, 'labeled/dog/1.png': b'no image'})
  assert refusal(data_dir, skip_bad_images=True, say=lines.append) == (
    f'{tmp_path}/labeled/dog has no image left that can be read: add {KINDS}, or remove the folder'
  )
  assert lines == [f'left out 1 that cannot be read: {tmp_path}/labeled/dog/1.png']
