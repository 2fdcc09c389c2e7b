"""Choosing unlabeled images, by hand, and through the command line."""
import numpy as np

from meta_pseudo_labels import select_images


def test_the_most_probable_of_each_class_by_hand():
  probabilities = np.array([[.9, .1, .0],    # 0: first of class 0.
                            [.8, .1, .1],    # 1: second of class 0.
                            [.3, .3, .4],    # 2: second of class 1, first of class 2.
                            [.1, .7, .2],    # 3: first of class 1, second of class 2.
                            [.7, .2, .1]])   # 4: of none.
  assert select_images.most_probable(probabilities, 1).tolist() == [0, 2, 3]
  assert select_images.most_probable(probabilities, 2).tolist() == [0, 1, 2, 3]
  assert select_images.most_probable(probabilities, 99).tolist() == [0, 1, 2, 3, 4]


def test_of_equals_the_first_are_chosen():
  assert select_images.most_probable(np.full([5, 2], .5), 2).tolist() == [0, 1]
