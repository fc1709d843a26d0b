"""Our types from and to those of Vizier, Optuna and JSON."""
