"""Making the embedded model, in miniature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from attnpo.testbed import build
from attnpo.testbed.build import BuildConfig, Round


def config(out: Path) -> BuildConfig:
    size = {"hidden_size": 16, "intermediate_size": 16, "layers": 1, "heads": 2, "kv_heads": 1}
    return BuildConfig(
        out=out, rounds=(Round(2, 4, 2e-3), Round(0, 3, 1e-3)), save_steps=2, batch_size=2, warmup_steps=1, **size
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    return dict(model.state_dict())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build.build(config(tmp_path_factory.mktemp("whole")))


def test_a_build_leaves_a_model_and_its_tokenizer(whole: Path) -> None:
    assert not (whole / build.CHECKPOINT).exists()
    tokenizer = AutoTokenizer.from_pretrained(whole)
    text = "First, 37 * 4 = 48.\nWait, 24 * 37 = 88, yes.\n</think>\n\\boxed{88}"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert len(ids) < 35  # phrases are one token each, digits and newlines too
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Start with 37. Times 24."}], add_generation_prompt=True, tokenize=False
    )
    assert prompt.endswith("<think>\n")


@pytest.mark.parametrize(("call", "step"), [(6, 4), (9, 2)], ids=["first round", "second round"])
def test_a_killed_build_goes_on_to_the_same_weights(
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    call: int,
    step: int,
) -> None:
    calls = 0
    real: Callable[..., dict[str, torch.Tensor]] = build.batch_of

    def dies(*arguments: Any) -> dict[str, torch.Tensor]:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(build, "batch_of", dies)
    with pytest.raises(KeyboardInterrupt):
        build.build(config(tmp_path))
    assert (tmp_path / build.CHECKPOINT).is_file()
    build.build(config(tmp_path))
    assert f"goes on after step {step}" in capsys.readouterr().out
    one, other = weights(whole), weights(tmp_path)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_checkpoint_of_other_settings_is_refused(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.lr_scheduler.LambdaLR, "step", lambda self, *_: None)
    started = config(tmp_path)
    monkeypatch.setattr(build, "atomic_write_bytes", lambda path, content: (path.write_bytes(content), stop()))
    with pytest.raises(KeyboardInterrupt):
        build.build(started)
    with pytest.raises(build.AttnPOError, match="is of a build with other settings; delete it"):
        build.build(replace(started, warmup_steps=2))
