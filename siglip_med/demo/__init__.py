"""A page to click: one photograph at a time, and all that a trained model says of it."""
