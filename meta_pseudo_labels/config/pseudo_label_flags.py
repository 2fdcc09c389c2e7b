"""The flags of pseudo labels: what the unlabeled loss learns from, and what students learn from."""

import dataclasses
from typing import Optional

from meta_pseudo_labels.config.choices import ALIGNMENTS, PSEUDO_LABELS, TARGET_VIEWS
from meta_pseudo_labels.config.fields import BELOW_ONE, COUNT, FRACTION, NON_NEGATIVE, flag


@dataclasses.dataclass(frozen=True)
class PseudoLabelFlags:
  """Strategies for the unlabeled loss of UDA and of MPL's teacher; pseudo labels of a fixed teacher."""

  pseudo_labels: str = flag(
    'uda',
    "What the unlabeled loss of uda and of mpl's teacher learns from. uda: as the release does, by "
    'uda_temp and uda_threshold, which the others do not read. fixmatch: the most probable class above a '
    'threshold. flexmatch: a threshold per class, by how much of it is learned. freematch: thresholds '
    'that follow the predictions, and a fairness loss. softmatch: all examples, weighted by confidence.',
    PSEUDO_LABELS,
  )
  pseudo_labels_threshold: Optional[float] = flag(
    None,
    'Smallest largest probability of an example that is learned from, of fixmatch and flexmatch (none: '
    "0.95, as in their papers) and of --method=pseudo_labels' teacher (none: 0, all examples).",
    FRACTION,
  )
  pseudo_labels_momentum: float = flag(
    0.999,
    'Decay per step of the running means of freematch, softmatch and distribution_alignment, as in the '
    'papers; short runs need a smaller one.',
    BELOW_ONE,
  )
  pseudo_labels_fairness: float = flag(
    0.05, "Weight of freematch's fairness loss, relative to the unlabeled loss.", NON_NEGATIVE
  )
  pseudo_labels_smoothing: float = flag(
    0.0, 'Share of an unlabeled target that is spread over all classes (uda, mpl).', FRACTION
  )
  distribution_alignment: str = flag(
    'auto',
    'Scale predictions on the original views so that their running mean is uniform, or that of the '
    "labeled examples, before they become targets (ReMixMatch); softmatch's weights alone follow it. "
    'auto: uniform for softmatch, none for the others.',
    ALIGNMENTS,
  )
  student_targets_from: str = flag(
    'augmented',
    "Views of the unlabeled examples that mpl's teacher labels for the student, which learns on the "
    'augmented ones; augmented is what the release does.',
    TARGET_VIEWS,
  )
  pseudo_labels_soft: bool = flag(
    False,
    'Let the student of --method=pseudo_labels learn from the probabilities of its teacher, instead of '
    'from its most probable class.',
  )
  pseudo_label_rounds: int = flag(
    1,
    'Rounds of --method=pseudo_labels: the student of each one is the teacher of the next, which trains a '
    'fresh student (Noisy Student).',
    COUNT,
  )
