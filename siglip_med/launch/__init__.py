"""From a command line to a command: Hydra, jobs of a sweep, help."""
