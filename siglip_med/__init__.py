"""siglip-med: fine-tune SigLIP with LoRA on long-tailed, multi-label dermatology photographs."""

__version__ = "0.1.0"
