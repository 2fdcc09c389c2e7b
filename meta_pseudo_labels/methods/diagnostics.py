"""What the logs say about a step of Meta Pseudo Labels besides its losses."""

from meta_pseudo_labels.distribution import collectives

import tensorflow as tf

# A gradient this much shorter than another, in float32, says nothing.
ROUNDING = 1e-6


def pseudo_labels(teacher_log_probs, student_logits, truth, replicas):
  """How good the pseudo labels are on the augmented views, and how far the student follows them.

  Args:
    teacher_log_probs, student_logits: `[n, C]` float, this replica's share.
    truth: `[n]` int32, the examples' labels, -1 where unknown, or None.
    replicas: int.

  Returns:
    {log name: scalar}, shares of the global means, to be summed over replicas:
    `pseudo_labels/agreement` of the most probable classes, `pseudo_labels/confidence` of the
    teacher and `pseudo_labels/student_confidence`: mean largest probabilities; and, given
    labels, `pseudo_labels/accuracy` of the teacher's most probable class (0 if none is known).
  """
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


def last_layer(variables):
  """The last kernel of a model and what comes after it (its bias)."""
  last = max(index for index, variable in enumerate(variables) if len(variable.shape) > 1)
  return variables[last:]


def gradients(gradient, variables, **losses):
  """How strong each of the teacher's losses pulls, and whether the feedback pulls the same way.

  Taken at the model's last layer, where a gradient costs one small product and no pass back
  through the network, so that every step can have it.

  Args:
    gradient: function (list of tensors, list of variables, list of output gradients) to a list of
      gradients, of a persistent tape of the pass.
    variables: the model's trainable variables, in order.
    **losses: name=(tensor, output gradient or None); one is `feedback`. This replica's shares.

  Returns:
    {log name: scalar}, alike on all replicas: `teacher_grad/<name>` norms, and the feedback's
    cosines `teacher_grad/cosine_feedback_<name>` with the others (0 where its length is no more
    than rounding, as that of `release` is).
  """
  layer = last_layer(variables)
  flat = {}
  for name, (tensor, output_gradient) in losses.items():
    parts = gradient(
      [tensor], layer, [tf.ones_like(tensor) if output_gradient is None else output_gradient]
    )
    flat[name] = tf.concat([tf.cast(tf.reshape(p, [-1]), tf.float32) for p in parts], axis=0)
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
