"""Pictures of results, as PNG files."""
import matplotlib
from matplotlib import figure

# One colour a class, that the colour-blind can tell apart.
CLASS_COLORS = ('#0072b2', '#d55e00')


def decision_regions(path, panels, *, plane, unlabeled, labeled, note=''):
  """Draws classifiers of points in a plane side by side (paper section 3.1, figure 2).

  Args:
    path: of the PNG file.
    panels: {title: probability of class 1, `[G, G]` from low to high y over the plane}.
    plane: ((left, right), (low, high)).
    unlabeled: `[N, 2]` points, drawn small.
    labeled: (points `[n, 2]`, classes 0 or 1 `[n]`), drawn large.
    note: a line below the panels.
  """
  (left, right), (low, high) = plane
  colors = matplotlib.colors.LinearSegmentedColormap.from_list(
      'classes', (CLASS_COLORS[0], '#ffffff', CLASS_COLORS[1]))
  drawing = figure.Figure(figsize=(3 * len(panels), 3.1), dpi=110, layout='constrained')
  axes = drawing.subplots(1, len(panels), squeeze=False)[0]
  for axis, (title, probability) in zip(axes, panels.items()):
    axis.imshow(probability, origin='lower', extent=(left, right, low, high), cmap=colors,
                vmin=0, vmax=1, alpha=.55, aspect='auto', interpolation='bilinear')
    axis.contour(probability, levels=[.5], origin='lower', extent=(left, right, low, high),
                 colors='black', linewidths=1)
    axis.scatter(*unlabeled.T, s=1, color='#555555', linewidths=0)
    points, classes = labeled
    for number, (color, marker) in enumerate(zip(CLASS_COLORS, 'o^')):
      axis.scatter(*points[classes == number].T, s=70, color=color, marker=marker,
                   edgecolors='black', zorder=3)
    axis.set_title(title, fontsize=11)
    axis.set_xticks([])
    axis.set_yticks([])
  drawing.supxlabel(note, fontsize=9)
  drawing.savefig(path)
