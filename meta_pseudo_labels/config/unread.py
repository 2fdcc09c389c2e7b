"""Flags of the release that nothing reads, there or here.

They are accepted, so that a command of the release runs as it is, and are no part of `Config`.
"""

UNREAD = {  # Name: the release's default, of which the type is the flag's; (type, None): not given.
  'mpl_temp': 0.75,
  'mpl_threshold': 0.6,
  'mpl_dot_product_bound': 0.1,
  'mpl_student_wait_steps': 2500,
  'uda_warmup_steps': 2000,
  'teacher_lr': 0.1,
  'teacher_base_lr': 1e-3,
  'teacher_grad_bound': 20.0,
  'teacher_eps': 1e-7,
  'teacher_weight_decay': 1e-4,
  'teacher_temperature': 0.5,
  'teacher_grad_dot_moving_average_decay': 0.99,
  'teacher_init_range': 0.1,
  'teacher_one_hot_w': 0.9,
  'teacher_num_samples': 10,
  'num_infeed_threads': 4,
  'num_shards_per_worker': (int, None),
  'inference_ckpt': (str, None),
  'inference_ckpt_ensemble': (str, None),
  'inference_class_id': 0,
  'inference_num_threads': (int, None),
  'inference_thread_index': 0,
  'dataset_service_replicas': (int, None),
  'dataset_service_bns_prefix': (str, None),
}
HELP = 'Accepted for the sake of commands of the release; nothing reads it.'


def type_and_default(name):
  """Returns (type, default) of such a flag; the default None means 'not given'."""
  value = UNREAD[name]
  return value if isinstance(value, tuple) else (type(value), value)
