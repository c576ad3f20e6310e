"""Figures of the report and of TensorBoard: plain data in, a matplotlib Figure out."""
