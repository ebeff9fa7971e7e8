"""Models and datasets on the Hugging Face Hub: saving, loading, cards and publishing."""

from timm_convattn.hub.saving import save_model

__all__ = ['save_model']
