"""Synthetic dermatology: drawings of skin conditions that travel the same path as photographs."""

from siglip_med.synthetic.source import CaptionSource, SyntheticSource

__all__ = ["CaptionSource", "SyntheticSource"]
