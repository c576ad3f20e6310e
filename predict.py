"""Ranks conditions for photographs: ``python predict.py checkpoint=… images=folder``."""

from siglip_med.launch import launch

if __name__ == "__main__":
    launch("predict")
