"""Synthetic dermatology: drawings of skin conditions that travel the same path as photographs."""

from siglip_med.synthetic.source import SyntheticSource

__all__ = ["SyntheticSource"]
