"""Fine-tuning on crops, and the evaluation of a run; needs the extra `train`."""
