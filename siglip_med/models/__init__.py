"""Two towers behind one face, their adaptation, and small checkpoints."""

from siglip_med.models.adaptation import Frozen, FullFineTune, Lora, interpolated
from siglip_med.models.base import fingerprint
from siglip_med.models.checkpoint import (
    MODEL_BUILDERS,
    DamagedCheckpoint,
    check_same_function,
    checkpoint_payload,
    finalize_checkpoint,
    load_model,
    model_builders,
    model_node,
    read_checkpoint,
    read_trained,
    write_checkpoint,
)
from siglip_med.models.device import Device, choose_device
from siglip_med.models.dual import DualEncoder, DualEncoderSettings
from siglip_med.models.exported import family_of, load_export
from siglip_med.models.factory import clip, dual_encoder, siglip, siglip2
from siglip_med.models.familiarity import Familiarity, read_familiarity
from siglip_med.models.frozen_blocks import as_written, encoder_layers
from siglip_med.models.joint import ClipTwoTower, JointTwoTower, VitBertTwoTower
from siglip_med.models.logits import Logits
from siglip_med.models.prompts import PromptEnsemble, Tokenizer, check_prompts, cut_texts, in_chunks
from siglip_med.models.refit import Refit, read_refit
from siglip_med.models.two_tower import TwoTower, check_gradients

__all__ = [
    "MODEL_BUILDERS",
    "ClipTwoTower",
    "DamagedCheckpoint",
    "Device",
    "DualEncoder",
    "DualEncoderSettings",
    "Familiarity",
    "Frozen",
    "FullFineTune",
    "JointTwoTower",
    "Logits",
    "Lora",
    "PromptEnsemble",
    "Refit",
    "Tokenizer",
    "TwoTower",
    "VitBertTwoTower",
    "as_written",
    "check_gradients",
    "check_prompts",
    "check_same_function",
    "checkpoint_payload",
    "choose_device",
    "clip",
    "cut_texts",
    "dual_encoder",
    "encoder_layers",
    "family_of",
    "finalize_checkpoint",
    "fingerprint",
    "in_chunks",
    "interpolated",
    "load_export",
    "load_model",
    "model_builders",
    "model_node",
    "read_checkpoint",
    "read_familiarity",
    "read_refit",
    "read_trained",
    "siglip",
    "siglip2",
    "write_checkpoint",
]
