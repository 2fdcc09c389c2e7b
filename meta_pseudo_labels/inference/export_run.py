"""A run as a SavedModel and other files, compared with it on its own data."""

import dataclasses
import os

from meta_pseudo_labels import build
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.files import write_json
from meta_pseudo_labels.inference import formats


def write(config, classifier, folder, names, say):
  """Writes a SavedModel with files of some formats in it, and `export.json` into the run's folder.

  Args:
    config: Config of the run.
    classifier: Classifier of its network.
    folder: str, of the SavedModel; an older one there is replaced.
    names: of `formats.FORMATS`.
    say: function of a line, told how far each file is from the run.

  Returns:
    list of dicts, the attributes of an Agreement for each file, as in `export.json`. Empty where the run's
    data are not there.

  Raises:
    UserError: as of `formats.write`.
  """
  problem, why_not = None, ''
  if names:
    try:
      # Of features the images: the exported network takes these. And no teacher's predictions.
      problem = build.problem(config.replace(features=False, method='supervised', baselines=''), say)
    except UserError as error:
      why_not = str(error)
  found = formats.write(
    classifier,
    folder,
    names,
    problem=problem,
    why_not=why_not,
    batch_size=config.eval_batch_size,
    say=say,
  )
  rows = [{**dataclasses.asdict(one), 'warning': one.warning} for one in found]
  path = os.path.join(config.output_dir, 'export.json')
  try:
    write_json(path, {'folder': folder, 'weights': config.export_weights, 'files': rows})
  except OSError as error:  # The run may be another person's.
    say(f'{path}: not written ({error.strerror})')
  return rows
