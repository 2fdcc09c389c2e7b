"""Draws pictures of results as PNG."""

import io
import warnings

import matplotlib
import numpy as np
from matplotlib import figure, ticker

# One colour per class, distinguishable for the colour-blind.
CLASS_COLORS = ('#0072b2', '#d55e00')
# Colours of lines, with different dashes for readers who see no colours.
COLORS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#8c6d00', '#56b4e9')
DASHES = ('-', '--', '-.', ':', (0, (5, 1)), (0, (3, 1, 1, 1)))
INK, GRID = '#24292f', '#d8dee4'
WIDTH, HEIGHT, DPI = 4.6, 2.9, 180  # In inches, which are shown at about 100 pixels each.
MAX_NUMBERED = 20  # A confusion matrix of more classes has no numbers in its cells.
MAX_BARS = 30  # The maximum number of classes in a bar chart.


def draw_decision_regions(path, panels, *, plane, unlabeled, labeled, note=''):
  """Draws classifiers of points in a plane side by side (paper section 3.1, figure 2).

  Args:
    path: str, of the PNG file.
    panels: {title: probability of class 1, `[G, G]` over the plane, rows from low to high y}.
    plane: ((left, right), (low, high)).
    unlabeled: `[N, 2]` points, drawn small.
    labeled: (points `[n, 2]`, classes 0 or 1 `[n]`), drawn large.
    note: str, a line below the panels.
  """
  (left, right), (low, high) = plane
  colors = matplotlib.colors.LinearSegmentedColormap.from_list(
    'classes', (CLASS_COLORS[0], '#ffffff', CLASS_COLORS[1])
  )
  drawing = figure.Figure(figsize=(3 * len(panels), 3.1), dpi=110, layout='constrained')
  axes = drawing.subplots(1, len(panels), squeeze=False)[0]
  for axis, (title, probability) in zip(axes, panels.items()):
    axis.imshow(
      probability,
      origin='lower',
      extent=(left, right, low, high),
      cmap=colors,
      vmin=0,
      vmax=1,
      alpha=0.55,
      aspect='auto',
      interpolation='bilinear',
    )
    axis.contour(
      probability,
      levels=[0.5],
      origin='lower',
      extent=(left, right, low, high),
      colors='black',
      linewidths=1,
    )
    axis.scatter(*unlabeled.T, s=1, color='#555555', linewidths=0)
    points, classes = labeled
    for number, (color, marker) in enumerate(zip(CLASS_COLORS, 'o^')):
      axis.scatter(
        *points[classes == number].T, s=70, color=color, marker=marker, edgecolors='black', zorder=3
      )
    axis.set_title(title, fontsize=11)
    axis.set_xticks([])
    axis.set_yticks([])
  drawing.supxlabel(note, fontsize=9)
  drawing.savefig(path)


def shorten(text, length=16):
  """Shortens a text to `length` characters, so that it fits beside an axis."""
  text = str(text).encode('utf-8', 'replace').decode()
  return text if len(text) <= length else text[: length - 1] + '\u2026'


def _chart(title, width=WIDTH, height=HEIGHT):
  """Creates (figure, axes) in the report's style."""
  drawing = figure.Figure(figsize=(width, height), dpi=DPI, layout='constrained')
  axes = drawing.subplots()
  axes.set_title(title, fontsize=10, color=INK, loc='left', fontweight='bold', parse_math=False)
  axes.tick_params(labelsize=8, colors=INK, length=2)
  for side in axes.spines:
    axes.spines[side].set_visible(side in ('left', 'bottom'))
    axes.spines[side].set_color(INK)
  axes.grid(color=GRID, linewidth=0.6)
  axes.set_axisbelow(True)
  return drawing, axes


def _png(drawing):
  """Renders a figure: PNG bytes."""
  with warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'Glyph')  # A class name in a script that the font lacks.
    file = io.BytesIO()
    drawing.savefig(file, format='png')
  return file.getvalue()


def draw_lines(title, series, *, percent=False, xlabel='step'):
  """Draws curves: PNG bytes.

  Args:
    title: str.
    series: {name: (x, y)}, up to six curves; x and y are lists of numbers of the same length.
    percent: bool, whether y are fractions that are shown in percent.
    xlabel: str.
  """
  drawing, axes = _chart(title)
  values = np.concatenate([np.asarray(y, float) for _, y in series.values()])
  for (name, (x, y)), color, dashes in zip(series.items(), COLORS, DASHES):
    axes.plot(
      x,
      y,
      color=color,
      linestyle=dashes,
      linewidth=1.4,
      label=shorten(name, 40),
      marker='o' if len(x) <= 12 else None,
      markersize=3,
    )
  finite = values[np.isfinite(values)]
  # Values over several orders of magnitude are only readable on a logarithmic axis.
  if finite.size and finite.min() > 0 and not percent and finite.max() > 30 * finite.min():
    axes.set_yscale('log')
  if percent:
    axes.yaxis.set_major_formatter(ticker.PercentFormatter(1, decimals=None))
  axes.set_xlabel(xlabel, fontsize=8, color=INK)
  axes.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
  drawing.legend(loc='outside lower left', ncols=2, fontsize=8, frameon=False, labelcolor=INK)
  return _png(drawing)


def draw_confusion(matrix, names):
  """Draws the confusion matrix, coloured by shares of the true class: PNG bytes.

  Args:
    matrix: int `[C, C]`, rows are true classes.
    names: C str, the class names.
  """
  matrix, count = np.asarray(matrix), len(names)
  drawing, axes = _chart('Confusion matrix', height=WIDTH)
  shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
  axes.imshow(shares, cmap='Blues', vmin=0, vmax=1, interpolation='nearest')
  axes.grid(False)
  axes.set_xlabel('predicted', fontsize=9, color=INK)
  axes.set_ylabel('true', fontsize=9, color=INK)
  if count > MAX_NUMBERED:
    return _png(drawing)
  labels = [shorten(name) for name in names]
  turned = dict(rotation=45, ha='right', rotation_mode='anchor') if max(map(len, labels)) > 3 else {}
  axes.set_xticks(range(count), labels, parse_math=False, **turned)
  axes.set_yticks(range(count), labels, parse_math=False)
  for row, column in zip(*np.nonzero(matrix)):
    axes.text(
      column,
      row,
      matrix[row, column],
      ha='center',
      va='center',
      fontsize=8,
      color='white' if shares[row, column] > 0.5 else INK,
    )
  return _png(drawing)


def draw_per_class(entries):
  """Draws each class's accuracy as a bar, of many classes only the lowest: PNG bytes.

  Args:
    entries: `per_class` of `evaluate.summarize`.
  """
  known = [entry for entry in entries if entry['examples']]
  title = 'Accuracy by class'
  if len(known) > MAX_BARS:
    known = sorted(known, key=lambda entry: entry['accuracy'])[:MAX_BARS]
    title += f', the {MAX_BARS} lowest of {len(entries)}'
  drawing, axes = _chart(title, height=max(HEIGHT, 0.6 + 0.23 * len(known)))
  places = np.arange(len(known))
  axes.barh(places, [entry['accuracy'] for entry in known], color=COLORS[0], height=0.7)
  for place, entry in zip(places, known):
    inside = entry['accuracy'] > 0.3
    axes.text(
      entry['accuracy'] + (-0.01 if inside else 0.01),
      place,
      f'{100 * entry["accuracy"]:.1f}% of {entry["examples"]}',
      va='center',
      fontsize=8,
      ha='right' if inside else 'left',
      color='white' if inside else INK,
    )
  axes.set_yticks(places, [shorten(entry['class']) for entry in known], parse_math=False)
  axes.invert_yaxis()
  axes.set_xlim(0, 1)
  axes.xaxis.set_major_formatter(ticker.PercentFormatter(1))
  return _png(drawing)


def draw_reliability(calibration):
  """Draws accuracy over confidence, and the share of examples in each bin: PNG bytes.

  Args:
    calibration: dict, from `evaluate.measure_calibration`.
  """
  drawing, axes = _chart(
    f'Reliability, {calibration["num_bins"]} bins; calibration error {100 * calibration["ece"]:.2f}%',
    height=WIDTH * 0.8,
  )
  bins = [entry for entry in calibration['bins'] if entry['examples']]
  total = sum(entry['examples'] for entry in bins)
  width = 1 / calibration['num_bins']
  left = [entry['from'] for entry in bins]
  axes.bar(
    left,
    [entry['accuracy'] for entry in bins],
    width,
    align='edge',
    color=COLORS[0],
    edgecolor='white',
    label='accuracy',
  )
  axes.bar(
    left,
    [entry['examples'] / total for entry in bins],
    width * 0.35,
    align='edge',
    color=COLORS[5],
    label='share of the examples',
  )
  axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle='--', label='as confident as right')
  axes.plot(
    [entry['confidence'] for entry in bins],
    [entry['accuracy'] for entry in bins],
    'o',
    color=COLORS[1],
    markersize=3,
    label='mean confidence',
  )
  axes.set_xlim(0, 1)
  axes.set_ylim(0, 1.02)
  axes.xaxis.set_major_formatter(ticker.PercentFormatter(1))
  axes.yaxis.set_major_formatter(ticker.PercentFormatter(1))
  axes.set_xlabel('confidence', fontsize=8, color=INK)
  drawing.legend(loc='outside lower left', ncols=2, fontsize=8, frameon=False, labelcolor=INK)
  return _png(drawing)


def draw_ladder(bars, compared_by='accuracy'):
  """Draws accuracies with their intervals, one below the other: PNG bytes.

  Args:
    bars: list of (name, whether it learns from unlabeled images, accuracy, lower, upper), in [0, 1].
    compared_by: str, what kind of accuracy that is.
  """
  drawing = figure.Figure(figsize=(7, 0.6 + 0.38 * len(bars)), dpi=DPI, layout='constrained')
  axis = drawing.subplots()
  for row, (_, unlabeled, share, lower, upper) in enumerate(bars):
    color = COLORS[1] if unlabeled else COLORS[0]
    axis.plot([100 * lower, 100 * upper], [row, row], color=color, linewidth=2)
    axis.plot([100 * share], [row], 's' if unlabeled else 'o', color=color, markersize=7)
    axis.annotate(
      f'{100 * share:.1f}', (100 * share, row), (0, 5), textcoords='offset points', ha='center', fontsize=8
    )
  axis.axvline(100 * bars[0][2], color=GRID, zorder=0)
  axis.set_yticks(range(len(bars)), [bar[0] for bar in bars])
  axis.set_ylim(len(bars) - 0.5, -0.7)
  axis.set_xlabel(f'{compared_by} in %; squares learn from unlabeled images too')
  axis.spines[['top', 'right']].set_visible(False)
  return _png(drawing)


def draw_map(unlabeled, labeled, labels, class_names):
  """Draws images as points in a plane: PNG bytes.

  Args:
    unlabeled, labeled: `[M, 2]`, `[n, 2]`.
    labels: int `[n]`.
    class_names: tuple of str; beyond MAX_NUMBERED of them there is no legend.
  """
  drawing = figure.Figure(figsize=(7, 5), dpi=DPI, layout='constrained')
  axis = drawing.subplots()
  axis.scatter(*unlabeled.T, s=2, color='#9aa4ae', linewidths=0)
  colors = matplotlib.colormaps['tab20' if len(class_names) > 10 else 'tab10']
  for number, name in enumerate(class_names):
    chosen = labeled[labels == number]
    marker = 'os^Dv'[number % 5]
    axis.scatter(*chosen.T, s=22, marker=marker, color=colors(number % colors.N), label=name, linewidths=0)
  if len(class_names) <= MAX_NUMBERED:
    axis.legend(fontsize=7, loc='center left', bbox_to_anchor=(1, 0.5), frameon=False)
  axis.set_xticks([])
  axis.set_yticks([])
  return _png(drawing)
