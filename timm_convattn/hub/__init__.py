"""Models and data sets to the Hugging Face Hub and back: folders in its form, cards, commits, and what can go wrong."""

from timm_convattn.hub.saving import save_model

__all__ = ['save_model']
