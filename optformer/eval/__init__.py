"""Evaluation: does it imitate, are its predictions calibrated, does it optimize better?

Array dimensions in this package: O optimizers, K tasks, S seeds, T trials (index t is "after t
trials", so that 0 is what the starting points found), N points or predictions, P parameters,
M metrics, Q bins.
"""
