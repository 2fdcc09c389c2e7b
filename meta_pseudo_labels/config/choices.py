"""The values that flags name: methods, tasks, datasets' views, operations."""

METHODS = ('supervised', 'pseudo_labels', 'uda', 'mpl', 'reduced_mpl')
FEEDBACKS = ('release', 'soft', 'sampled', 'sampled_dot', 'argmax')
STRATEGIES = ('auto', 'one_device', 'mirrored', 'multi_worker', 'tpu')
BASELINES = METHODS + ('mpl_without_uda', 'label_spreading')
TASKS = (
    'train', 'finetune', 'eval', 'eval_forever', 'export', 'predict', 'report', 'select', 'label',
    'convert', 'prepare')  # fmt: skip
EFFICIENTNETS = (
    'bs', 'b0', 'b1', 'b2', 'b3', 'b4', 'b5', 'b6', 'b7', 'b8', 'l2', 'b5-mpl',
    'b6-mpl')  # fmt: skip
RANGES = ('high_bits', 'data')
ORIGINAL_VIEWS = ('together', 'separate')
VIEWS = ('pad_crop', 'resized_crop')
# What RandAugment draws from in the release, and all that there is.
RELEASE_OPS = (
    'AutoContrast', 'Equalize', 'Invert', 'Rotate', 'Posterize', 'Solarize', 'Color',
    'Contrast', 'Brightness', 'Sharpness', 'ShearX', 'ShearY', 'TranslateX', 'TranslateY',
    'Cutout')  # fmt: skip
AUGMENT_OPS = RELEASE_OPS + ('SolarizeAdd', 'Identity')
SELECTIONS = ('validation', 'last', 'best_on_test')
