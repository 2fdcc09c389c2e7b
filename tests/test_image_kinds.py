"""Every kind of image file, from a folder to the network: in evaluation, predict and an exported model.

With --write-table docs/image_kinds.md is written anew.
"""

import pathlib

from meta_pseudo_labels import build, models
from meta_pseudo_labels.config import parse
from meta_pseudo_labels.data.images import decode, decoding
from meta_pseudo_labels.data.serving import Serving
from meta_pseudo_labels.inference import classifier, predict_files, saved_model

import image_kinds
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

DOC = pathlib.Path(__file__).parents[1] / 'docs' / 'image_kinds.md'
KINDS = {kind.name: kind for kind in image_kinds.KINDS}
# Those that can be decoded without being told which values are black and white.
DECODED = sorted(
  name for name, kind in KINDS.items() if not isinstance(kind.expected, str) and kind.depth == 'high_bits'
)
HEAD = """# Kinds of image files

What becomes of every kind of file that the tests have, as one of your own images
(`--dataset_name=folder`) or as a file to predict. All become upright RGB of 8 bits; the kind is told by a
file's first bytes, whatever its suffix. `tests/test_image_kinds.py` makes each of them and compares;
`--write-table` writes this file, and `python tests/data/images/image_kinds.py FOLDER` the images.

The last column says whether an exported SavedModel, which has TensorFlow alone, takes the bytes too. Where
it does, it sees the very pixels that training does; where not, the request fails and names the image.
`...` is what differs between versions.

| file | what comes out | exported model |
|---|---|---|
"""


@pytest.fixture(name='folder', scope='module')
def fixture_folder(tmp_path_factory):
  """A folder of images whose test images are of every kind that can be decoded."""
  root = tmp_path_factory.mktemp('kinds')
  for name in ('labeled/a', 'labeled/b', 'test/a'):
    (root / name).mkdir(parents=True)
  for number in range(6):
    image = Image.fromarray(np.full([9, 9, 3], number, np.uint8))
    image.save(root / 'labeled' / 'ab'[number % 2] / f'{number}.png')
  for name in DECODED:
    (root / 'test' / 'a' / name).write_bytes(KINDS[name].make())
  return root


def seen_in_evaluation(problem):
  """{name: what the network sees}."""
  found = problem.evaluated['test']
  (batch,) = problem.eval_batches('test', batch_size=len(found))
  return dict(zip((pathlib.Path(name).name for name in found.names), batch[0].numpy()))


def seen_in_predict(served, paths):
  """{name: what the network sees}, by the pipelines of task predict."""
  found, reasons = {}, {}
  chosen = [number for number, path in enumerate(paths) if predict_files._for_tensorflow(path)]
  rest = [number for number in range(len(paths)) if number not in chosen]
  for batches in (
    predict_files._batches(served, paths, chosen, 16),
    predict_files._python_batches(served, paths, rest, 16, reasons),
  ):
    for numbers, inputs in batches:
      found.update((n, image) for n, image in zip(numbers.numpy(), inputs.numpy()) if n >= 0)
  assert reasons == {}
  return {pathlib.Path(paths[number]).name: image for number, image in found.items()}


@pytest.mark.long
@pytest.mark.parametrize('views, size', [('pad_crop', 8), ('pad_crop', 32), ('resized_crop', 96)])
def test_evaluation_predict_and_an_exported_model_see_the_same(folder, tmp_path, views, size):
  problem = build.problem(
    parse(
      [
        'main',
        '--dataset_name=folder',
        f'--data_dir={folder}',
        f'--output_dir={tmp_path}/run',
        f'--image_size={size}',
        f'--cache_dir={tmp_path}/cache',
      ]
    )
  )
  assert type(problem.views).__name__ == {'pad_crop': 'PadCrop', 'resized_crop': 'ResizedCrop'}[views]
  expected = seen_in_evaluation(problem)
  assert sorted(expected) == DECODED
  model = models.build('mlp-8x1', num_classes=2, input_shape=problem.input_shape)
  saved_model.write(classifier.Classifier(model, Serving.of(problem)), str(tmp_path / 'served'))
  served = tf.saved_model.load(str(tmp_path / 'served'))
  paths = [str(folder / 'test' / 'a' / name) for name in DECODED]
  found = seen_in_predict(served, paths)
  # One level of 255 is more than 0.01; a graph may multiply by 1 / std.
  differ = lambda one, other: np.max(np.abs(one - other)) > 1e-4
  assert [name for name in DECODED if differ(found[name], expected[name])] == []
  wrong = []
  for name in DECODED:
    try:
      image = served.prepare(tf.constant(KINDS[name].make()))
      if KINDS[name].in_graph != image_kinds.SAME or differ(image, expected[name]):
        wrong.append(name)
    except tf.errors.InvalidArgumentError:
      if KINDS[name].in_graph != image_kinds.REFUSED:
        wrong.append(name)
  assert wrong == []


def test_the_kinds_that_are_no_images_are_refused_by_both_decodings():
  how = decoding.Decoding(32, square=True)
  for kind in KINDS.values():
    if isinstance(kind.expected, str):
      content = kind.make()
      with pytest.raises(decode.CannotDecode):
        how.in_python(content)
      with pytest.raises(tf.errors.InvalidArgumentError):
        how.in_graph(tf.constant(content))


def outcome(kind):
  """(What comes out of a kind of file, whether an exported model takes it), in words."""
  try:
    found = decode.decode(kind.make(), depth=kind.depth).facts
  except decode.CannotDecode as error:
    reason = str(error)
    others = ('it cannot be decoded: ', 'it begins like')
    start = next((words for words in others if reason.startswith(words)), None)
    return f'refused: {start.rstrip(": ")} ...' if start else f'refused: {reason}', 'no'
  words = ['decoded by ' + {'tensorflow': 'TensorFlow', 'pillow': 'Pillow'}[found.decoder]]
  if kind.depth != 'high_bits':
    words.append('values {} to {} become 0 to 255'.format(*kind.depth))
  elif found.bits > 8:
    words.append(f'the upper 8 of {found.bits} bits')
  if found.see_through:
    words.append('transparency on the background')
  if found.turned:
    words.append('turned upright')
  if found.more_frames and found.kind != 'jpeg':
    words.append('the first of several frames')
  return '; '.join(words), 'yes' if kind.in_graph == image_kinds.SAME else 'no'


def test_the_table_of_kinds_is_what_happens(request):
  cell = lambda text: text.replace('|', '\\|')
  rows = [f'| {cell(name)} | {" | ".join(map(cell, outcome(kind)))} |' for name, kind in KINDS.items()]
  text = HEAD + '\n'.join(rows) + '\n'
  assert sum('refused' in row for row in rows) >= 20 and len(rows) >= 100
  if request.config.getoption('--write-table'):
    DOC.write_text(text, encoding='utf-8')
  assert DOC.read_text(encoding='utf-8').splitlines() == text.splitlines()
