"""A run on disk: built from its settings, scored, saved, resumed, read again, derived from."""
