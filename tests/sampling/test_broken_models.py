"""Models whose files are broken: one line, and none of them is taken in silence."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import write_profile
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from attnpo.cli import main
from attnpo.errors import AttnPOError
from attnpo.method.steps import token_bytes_table
from attnpo.sampling.models import load_model, load_tokenizer
from attnpo.testbed import EMBEDDED, MODEL_DIR
from attnpo.training.checks import warn_without_think_end

WEIGHTS = "model.safetensors"
MATRIX = "model.layers.1.mlp.up_proj.weight"


def cut(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def zeros(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(bytes((folder / WEIGHTS).stat().st_size))


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    return apply


def not_finite(weights: dict[str, torch.Tensor]) -> None:
    weights[MATRIX][3, 3] = torch.nan


def fewer_rows(weights: dict[str, torch.Tensor]) -> None:
    weights[MATRIX] = weights[MATRIX][:100].clone()


def small_vocabulary(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 200}))
    embedding = "model.embed_tokens.weight"
    tensors(lambda weights: weights.update({embedding: weights[embedding][:200].clone()}))(folder)


def file(name: str, content: str | None) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).write_text(content) if content is not None else (folder / name).unlink()

    return apply


BROKEN = {
    "cut weights": (cut, r"could not be loaded \(.*not fully covered"),
    "empty weights": (file(WEIGHTS, ""), r"could not be loaded \(.*header too small"),
    "zeros for weights": (zeros, r"could not be loaded \(.*invalid JSON in header"),
    "no weights": (file(WEIGHTS, None), r"could not be loaded \(.*no file named model.safetensors"),
    "no tensors": (tensors(dict.clear), r"its files lack 47 weights, .* fetch them again"),
    "a tensor too few": (tensors(lambda weights: weights.pop(MATRIX)), f"lack 1 weights, {MATRIX} among them"),
    "other shapes": (tensors(fewer_rows), "do not have the shapes of its config.json"),
    "NaN": (tensors(not_finite), f"{MATRIX} holds NaN or infinity; take another checkpoint"),
    "small vocabulary": (small_vocabulary, "knows 200 tokens, but its tokenizer writes ' . ', number 2[0-9]{2}"),
    "no tokenizer": (file("tokenizer.json", None), r"make '.*' of the problem '17\+4'; check its tokenizer.json"),
    "no template": (file("chat_template.jinja", None), "has no chat template; choose one"),
    "garbled tokenizer": (file("tokenizer.json", '{"a"'), "could not be loaded"),
    "empty tokenizer": (file("tokenizer.json", "{}"), "could not be loaded"),
    "cut template": (file("chat_template.jinja", "{% for m in messages %}"), "its chat template fails .*; repair it"),
    "wrong template": (file("chat_template.jinja", "{{ messages[0].x.y }}"), "its chat template fails .*; repair it"),
    "deaf template": (file("chat_template.jinja", "Hello."), r"make 'Hello\.' of the problem '17\+4'"),
    "garbled configuration": (file("config.json", '{"a"'), "could not be loaded"),
    "a list for a configuration": (file("config.json", "[]"), "could not be loaded"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MODEL_DIR, tmp_path / "model"))


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_model_is_refused(folder: Path, what: str) -> None:
    spoil, message = BROKEN[what]
    spoil(folder)
    with pytest.raises(AttnPOError, match=message) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize("command", ["probe", "train --method rloo", "eval"])
def test_no_command_works_with_nan(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    tensors(not_finite)(folder)
    profile = write_profile(tmp_path, model=str(folder))
    assert main([*command.split(), "--profile", str(profile), "--results", str(tmp_path / "results")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("attnpo: ")]
    assert len(lines) == 1 and "holds NaN or infinity; take another checkpoint" in lines[0]


def test_the_tokenizer_of_another_model_is_refused_by_what_it_writes(folder: Path) -> None:
    """A token that no prompt holds may be beyond the vocabulary, as one for images."""
    tokenizer = load_tokenizer(str(folder))
    tokenizer.add_tokens(["<image>"])
    tokenizer.save_pretrained(folder)
    load_model(str(folder))
    tokenizer.chat_template = "<image>" + str(tokenizer.chat_template)
    tokenizer.save_pretrained(folder)
    size = len(tokenizer) - 1
    with pytest.raises(AttnPOError, match=f"knows {size} tokens, but its tokenizer writes '<image>', number {size}"):
        load_model(str(folder))


def test_a_tokenizer_that_cannot_write_the_tag_is_told(caplog: pytest.LogCaptureFixture) -> None:
    letters = {letter: id for id, letter in enumerate(sorted(set(pre_tokenizers.ByteLevel.alphabet()) - {"<"}))}
    plain = Tokenizer(models.BPE(vocab=letters, merges=[]))
    plain.pre_tokenizer, plain.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    for tokenizer, warned in ((load_tokenizer(EMBEDDED), 0), (PreTrainedTokenizerFast(tokenizer_object=plain), 1)):
        with caplog.at_level(logging.WARNING, "attnpo"):
            warn_without_think_end(tokenizer, token_bytes_table(tokenizer))
        assert caplog.text.count("the tokenizer cannot write </think>") == warned
