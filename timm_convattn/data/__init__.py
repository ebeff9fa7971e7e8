"""FLIR ADAS folders to crops to batches; needs the extra `train`."""
