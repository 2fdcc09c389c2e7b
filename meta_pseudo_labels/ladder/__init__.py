"""A first answer in minutes, better ones later, and what the unlabeled images added."""
