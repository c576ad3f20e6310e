"""Reports on a run: ``python evaluate.py checkpoint=…``; compares two: ``python evaluate.py compare=[runA,runB]``."""

from siglip_med.launch import launch

if __name__ == "__main__":
    launch("evaluate")
