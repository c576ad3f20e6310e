"""Training: the LightningModules, the coefficient schedule, and the jobs that train.py runs."""
