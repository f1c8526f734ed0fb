"""The shared engine beside real Hugging Face baselines, in one process: `saccade bench`."""
