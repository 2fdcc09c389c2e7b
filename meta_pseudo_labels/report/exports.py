"""The report's section about the files that task export made of the run."""

import os

from meta_pseudo_labels.files import read_json
from meta_pseudo_labels.report import page

HEADER = ('file', 'MB', 'largest difference', 'largest logit', 'same class', 'accuracy', 'of the run')


def build(folder):
  """Builds the section from `export.json` in a run's folder; '' if there are no such files.

  Raises:
    UserError: `export.json` is damaged.
  """
  found = read_json(os.path.join(folder, 'export.json')) or {}
  files = found.get('files')
  if not files:
    return ''
  percent = lambda value: f'{100 * value:.2f}%'
  rows = [
    (
      row['file'],
      f'{row["bytes"] / 1e6:.2f}',
      f'{row["difference"]:.2g}',
      f'{row["scale"]:.3g}',
      percent(row['same_class']),
      percent(row['accuracy']),
      percent(row['run_accuracy']),
    )
    for row in files
  ]
  first = files[0]
  warnings = [row['warning'] for row in files if row['warning']]
  return page.join(
    [
      page.tag(
        'p',
        f'In {found["folder"]}, of the weights {found["weights"]}: how far the logits of each file are '
        f'from those of the run, on {first["examples"]} of {first["of"]} {first["split"]} examples.',
        class_='note',
      ),
      page.table(HEADER, rows, True),
      *(page.tag('p', warning, class_='wrong') for warning in warnings),
    ]
  )
