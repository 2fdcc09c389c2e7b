"""One decoding of image files: upright RGB of 8 bits, with its shorter side at most as asked."""
