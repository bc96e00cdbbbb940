"""Write the averaged weights of a training run as a checkpoint that transformers loads.

python -m training.whisper_nano.export data/training/whisper-nano/run data/training/whisper-nano/model
"""

import argparse
from pathlib import Path

import torch

from training.whisper_nano.model import TrainedWhisper
from training.whisper_nano.tokenizer import build_config, build_generation_config, build_processor


def export(run: Path, folder: Path) -> int:
    """Write the run's checkpoint to `folder` in float16; return its step."""
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    processor = build_processor()
    model = TrainedWhisper(build_config(processor.tokenizer))
    model.load_state_dict(state["average"])
    model.whisper.generation_config = build_generation_config(processor.tokenizer)
    model.whisper.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    return int(state["step"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="written by training.whisper_nano.train; it may still be running")
    parser.add_argument("folder", type=Path, help="output folder; created if it does not exist")
    arguments = parser.parse_args()
    step = export(arguments.run, arguments.folder)
    print(f"wrote step {step} to {arguments.folder}")


if __name__ == "__main__":
    main()
