"""Where the shipped model and benchmark lie."""

from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"  # a Hugging Face checkpoint folder
DATA_DIR = Path(__file__).parent / "scienceqa"  # problems.json, pid_splits.json, llava_test_CQM-A.json, images/
