"""Shared weights of a space, and checkpoints of them (docs/spaces.md)."""

from toolchain.supernet.checkpoint import Checkpoint, load_checkpoint, restore, save_checkpoint
from toolchain.supernet.supernet import Supernet, recalibrate_bn

__all__ = ["Checkpoint", "Supernet", "load_checkpoint", "recalibrate_bn", "restore", "save_checkpoint"]
