"""Fine-tuning on crops, and the evaluation that a run ends with; needs the extra `train`."""
