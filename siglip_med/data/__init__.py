"""From image files and label tables to batches; see docs/images.md."""
