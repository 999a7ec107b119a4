"""Fine-tune SmolLM2-135M-Instruct on testbed traces: the model of profile `small`. Called by small.sh.

python reproduce/small_model.py --source FOLDER     # as `reproduce/smollm2.py model FOLDER` makes it
"""

from __future__ import annotations

from pathlib import Path

import torch
import tyro

from attnpo.environment import checkout_root
from attnpo.sampling.models import load_model
from attnpo.testbed.build import BuildConfig, Round, fine_tune

OUT = checkout_root() / "models" / "smollm2-testbed"


def main(source: Path, out: Path = OUT, steps: int = 1500, learning_rate: float = 2e-4, batch_size: int = 32) -> None:
    """Fine-tune and save.

    Args:
        source: folder of the model to start from.
        out: folder of the model that is made.
        steps: optimizer steps.
        learning_rate: its peak.
        batch_size: traces a step.
    """
    model, tokenizer = load_model(str(source))
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'].split('</think>')[-1] }}"
        "{{ '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
    )
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.pad_token = "<|endoftext|>"
    for name in ("eos_token_id", "pad_token_id"):
        setattr(model.generation_config, name, getattr(tokenizer, name))
    config = BuildConfig(out=out, rounds=(Round(0, steps, learning_rate),), batch_size=batch_size)
    torch.manual_seed(config.seed)
    fine_tune(model, tokenizer, config, 0)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
