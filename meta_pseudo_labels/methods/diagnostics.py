"""Logged diagnostics of a step of Meta Pseudo Labels, in addition to its losses."""

from meta_pseudo_labels.distribution import collectives

import tensorflow as tf

# A gradient whose norm is smaller than this share of another's is rounding noise in float32.
ROUNDING = 1e-6


def measure_pseudo_labels(teacher_log_probs, student_logits, truth, replicas, total=None):
  """Measures the pseudo labels on the augmented views and the student's agreement with them.

  Args:
    teacher_log_probs, student_logits: `[n, C]` float, this replica's share.
    truth: `[n]` int32, the examples' labels, -1 where unknown, or None.
    replicas: int.
    total: scalar, the examples of all replicas, where `n` is not known before the step.

  Returns:
    {log name: scalar}, shares of the global means, to be summed over replicas:
      `pseudo_labels/agreement`: share of examples with the same most probable class.
      `pseudo_labels/confidence`, `pseudo_labels/student_confidence`: mean largest probability of the
        teacher and of the student.
      `pseudo_labels/accuracy`: accuracy of the teacher, only with `truth`; 0 if no label is known.
  """
  if teacher_log_probs.shape[0] is None:
    mean = lambda values: tf.reduce_sum(tf.cast(values, tf.float32)) / tf.cast(total, tf.float32)
  else:
    mean = lambda values: tf.reduce_mean(tf.cast(values, tf.float32)) / replicas
  predicted = tf.argmax(teacher_log_probs, axis=-1, output_type=tf.int32)
  logs = {
    'pseudo_labels/agreement': mean(predicted == tf.argmax(student_logits, axis=-1, output_type=tf.int32)),
    'pseudo_labels/confidence': mean(tf.exp(tf.reduce_max(teacher_log_probs, axis=-1))),
    'pseudo_labels/student_confidence': mean(tf.reduce_max(tf.nn.softmax(student_logits), axis=-1)),
  }
  if truth is not None:
    known = tf.cast(truth >= 0, tf.float32)
    total = collectives.sum_over_replicas(tf.reduce_sum(known))
    right = tf.reduce_sum(tf.cast(predicted == truth, tf.float32) * known)
    logs['pseudo_labels/accuracy'] = tf.math.divide_no_nan(right, total)
  return logs


def measure_targets(found, truth, total):
  """Measures the targets of the unlabeled loss, which are made of the original views.

  Args:
    found: (classes, confidence, weights) `[n]` of `pseudo_label_strategies.Labels`, this replica's share.
    truth: as of `measure_pseudo_labels`.
    total: number or scalar, the examples of all replicas.

  Returns:
    {log name: scalar}, shares of the global values, to be summed over replicas:
      `uda/u_confidence`: mean largest probability.
      `uda/u_accuracy`, `uda/u_accuracy_used`: accuracy of the most probable class, in the second one
        weighted as in the loss; only with `truth`, 0 if no label is known.
  """
  classes, confidence, weights = found
  confidence = tf.cast(confidence, tf.float32)
  logs = {'uda/u_confidence': tf.reduce_sum(confidence) / tf.cast(total, tf.float32)}
  if truth is not None:
    known = tf.cast(truth >= 0, tf.float32)
    counted = tf.stack([known, known * tf.cast(weights, tf.float32)], axis=1)
    right = tf.reduce_sum(tf.cast(classes == truth, tf.float32)[:, None] * counted, axis=0)
    counted = collectives.sum_over_replicas(tf.reduce_sum(counted, axis=0))
    right = tf.math.divide_no_nan(right, counted)
    logs.update({'uda/u_accuracy': right[0], 'uda/u_accuracy_used': right[1]})
  return logs


def get_last_layer(variables):
  """Returns the last kernel of a model and the variables after it (its bias)."""
  last = max(index for index, variable in enumerate(variables) if len(variable.shape) > 1)
  return variables[last:]


def flatten_gradients(gradient, variables, **losses):
  """Computes the gradients of the teacher's losses, each as one vector.

  They are those of the model's last layer. There a gradient costs one small product and no backward
  pass through the network, so every step can log it.

  Args:
    gradient: function from (list of tensors, list of variables, list of output gradients) to a list of
      gradients, based on a persistent tape of the pass.
    variables: the model's trainable variables, in order.
    **losses: name=(tensor, output gradient or None), one of them `feedback`; this replica's shares.

  Returns:
    {name: float32 vector}, this replica's shares; of several batches they may be added.
  """
  layer = get_last_layer(variables)
  flat = {}
  for name, (tensor, output_gradient) in losses.items():
    parts = gradient(
      [tensor], layer, [tf.ones_like(tensor) if output_gradient is None else output_gradient]
    )
    flat[name] = tf.concat([tf.cast(tf.reshape(p, [-1]), tf.float32) for p in parts], axis=0)
  return flat


def compare_gradients(flat):
  """Measures gradients, and the feedback's direction relative to the others.

  Args:
    flat: of `flatten_gradients`.

  Returns:
    {log name: scalar}, equal on all replicas: the norms `teacher_grad/<name>`, and the cosines of the
    feedback with the others, `teacher_grad/cosine_feedback_<name>`. A cosine is 0 if the feedback's norm
    is rounding noise, as with `release`.
  """
  flat = dict(zip(flat, tf.unstack(collectives.sum_over_replicas(tf.stack(list(flat.values()))))))
  norms = {name: tf.norm(vector) for name, vector in flat.items()}
  logs = {f'teacher_grad/{name}': norm for name, norm in norms.items()}
  for name in flat:
    if name != 'feedback':
      cosine = tf.math.divide_no_nan(
        tf.reduce_sum(flat['feedback'] * flat[name]), norms['feedback'] * norms[name]
      )
      logs[f'teacher_grad/cosine_feedback_{name}'] = tf.where(
        norms['feedback'] > ROUNDING * norms[name], cosine, 0.0
      )
  return logs
