"""Trains: ``python train.py experiment=layered``; ``python train.py -m experiment=layered,baseline seed=0,1,2``."""

from siglip_med.launch import launch

if __name__ == "__main__":
    launch("train")
