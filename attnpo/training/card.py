"""The model card of a trained model: TRL's, with the paper of the method."""

from __future__ import annotations

from pathlib import Path

PAPER = {
    "title": "AttnPO: Attention-Guided Process Supervision for Efficient Reasoning",
    "id": "2602.09953",
    "citation": """\
@inproceedings{nie-etal-2026-attnpo,
    title     = {{AttnPO: Attention-Guided Process Supervision for Efficient Reasoning}},
    author    = {Shuaiyi Nie and Siyu Ding and Wenyuan Zhang and Linhao Yu and Tianmeng Yang and Yao Chen and
                 Weichong Yin and Yu Sun and Hua Wu and Tingwen Liu},
    booktitle = {Proceedings of the 64th Annual Meeting of the Association for Computational Linguistics
                 (Volume 1: Long Papers)},
    year      = 2026,
    url       = {https://aclanthology.org/2026.acl-long.1845/},
    eprint    = {arXiv:2602.09953},
}""",
}
"""The paper of the method, as a model card cites it."""


def name_what_is_not_on_the_hub(card: Path, base: str) -> None:
    """Put names into TRL's card where it prints `None`, for a base model and a trained model that are folders.

    Args:
        card: the file.
        base: the base model's folder or hub id; empty if it has neither.
    """
    name = "/".join(Path(base).parts[-2:]) or "a model without a name"
    text = card.read_text(encoding="utf-8").replace("[None](https://huggingface.co/None)", name)
    card.write_text(text.replace('model="None"', 'model="path/to/this/folder"'), encoding="utf-8")
