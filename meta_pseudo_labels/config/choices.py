"""The values that flags name: methods, tasks, datasets' views, operations."""

METHODS = ('supervised', 'pseudo_labels', 'uda', 'mpl', 'reduced_mpl')
FEEDBACKS = ('release', 'soft', 'sampled', 'sampled_dot', 'argmax')
STRATEGIES = ('auto', 'one_device', 'mirrored', 'multi_worker', 'tpu')
BASELINES = METHODS + ('mpl_without_uda', 'label_spreading')
TASKS = (
    'train', 'finetune', 'eval', 'eval_forever', 'export', 'predict', 'report', 'select', 'label',
    'convert', 'prepare', 'ladder', 'suggest')  # fmt: skip
EFFICIENTNETS = (
    'bs', 'b0', 'b1', 'b2', 'b3', 'b4', 'b5', 'b6', 'b7', 'b8', 'l2', 'b5-mpl',
    'b6-mpl')  # fmt: skip
# Of tf.keras.applications, called as their constructors are there.
APPLICATIONS = (
    'MobileNet', 'MobileNetV2', 'MobileNetV3Small', 'MobileNetV3Large',
    *(f'EfficientNetB{number}' for number in range(8)),
    *(f'EfficientNetV2{size}' for size in ('B0', 'B1', 'B2', 'B3', 'S', 'M', 'L')),
    'ResNet50', 'ResNet101', 'ResNet152', 'ResNet50V2', 'ResNet101V2', 'ResNet152V2',
    'DenseNet121', 'DenseNet169', 'DenseNet201', 'ConvNeXtTiny', 'ConvNeXtSmall', 'ConvNeXtBase',
    *(f'RegNet{kind}{size}' for kind in 'XY'
      for size in ('002', '004', '006', '008', '016', '032', '040', '064', '080')),
    'NASNetMobile', 'InceptionV3', 'InceptionResNetV2', 'Xception', 'VGG16', 'VGG19')  # fmt: skip
NETWORK_FILES = ('.h5', '.hdf5', '.keras')  # Endings of the files of Keras 2 models.


def is_network_path(name: str) -> bool:
  """Returns whether a `--model_type` is a path: with a separator, or a network file's ending."""
  return '/' in name or name.endswith(NETWORK_FILES)


def is_pretrained(name: str) -> bool:
  """Returns whether a `--model_type` is a network of tf.keras.applications, or given by its path."""
  return name in APPLICATIONS or is_network_path(name)


INPUTS = ('0_255', '0_1', '-1_1', 'caffe', 'torch')
RANGES = ('high_bits', 'data')
ORIGINAL_VIEWS = ('together', 'separate')
PSEUDO_LABELS = ('uda', 'fixmatch', 'flexmatch', 'freematch', 'softmatch')
ALIGNMENTS = ('auto', 'none', 'uniform', 'labeled')
TARGET_VIEWS = ('augmented', 'original')
VIEWS = ('pad_crop', 'resized_crop')
# What RandAugment draws from in the release, and all that there is.
RELEASE_OPS = (
    'AutoContrast', 'Equalize', 'Invert', 'Rotate', 'Posterize', 'Solarize', 'Color',
    'Contrast', 'Brightness', 'Sharpness', 'ShearX', 'ShearY', 'TranslateX', 'TranslateY',
    'Cutout')  # fmt: skip
AUGMENT_OPS = RELEASE_OPS + ('SolarizeAdd', 'Identity')
SELECTIONS = ('validation', 'last', 'best_on_test')
# Files that an export may have beside the SavedModel.
EXPORT_FORMATS = ('tflite', 'tflite_float16', 'tflite_int8', 'onnx')
