"""Models and data sets to the Hugging Face Hub and back: folders in its form, cards, commits, and what can go wrong."""

from timm_convattn.hub.saving import model_data_config, pretrained_cfg, save_model

__all__ = ['model_data_config', 'pretrained_cfg', 'save_model']
