"""Evaluation: does it imitate, are its predictions calibrated, does it optimize better?

Array dimensions in this package: O optimizers, K tasks, S seeds, T trials (index t means
after t trials, so index 0 is the best of the given trials), N points or predictions, P parameters,
M metrics, Q bins.
"""
