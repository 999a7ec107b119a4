from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from attnpo.errors import AttnPOError
from attnpo.method.ranking import step_ranking_accuracy
from attnpo.probing.heads import HeadRanking, RankedHead

ABOUT = {
    "model": "tiny",
    "revision": None,
    "phrase_set": "corrected",
    "min_chars": 1,
    "label_source": "oracle",
    "n_responses": 3,
    "n_pairs": 7,
}


def ranking():
    heads = ((0, 0, 0.5), (0, 1, 0.9), (1, 0, 0.9), (1, 2, 0.95))
    return HeadRanking(**ABOUT, heads=tuple(RankedHead(*h, h[2] - 0.05, h[2] + 0.05) for h in heads))


def test_top_breaks_ties_by_layer_and_head():
    assert ranking().top(3) == [(1, 2), (0, 1), (1, 0)]
    for n in (0, 5):
        with pytest.raises(AttnPOError, match="give 1 to 4"):
            ranking().top(n)


def test_matrix_shows_what_was_measured():
    want = np.array([[0.5, 0.9, np.nan], [0.9, np.nan, 0.95]])
    np.testing.assert_array_equal(ranking().matrix(), want)


def test_ranking_from_a_result():
    label, generator = torch.tensor([True, False] * 3), torch.Generator().manual_seed(0)
    result = step_ranking_accuracy(list(torch.randn(10, 2, 6, generator=generator)), [label] * 10)
    about = {k: v for k, v in ABOUT.items() if k not in ("n_responses", "n_pairs")}
    made = HeadRanking.of(result, [(3, 1), (0, 2)], **about)
    assert [(e.layer, e.head) for e in made.heads] == [(0, 2), (3, 1)]
    assert made.heads[1].sra == result.sra[0].item()
    assert (made.n_responses, made.n_pairs) == (10, 90)


def test_json_round_trip(tmp_path):
    made = ranking()
    assert json.loads(made.to_json())["heads"][0]["layer"] == 0
    path = tmp_path / "new" / "heads.json"
    made.save(path)
    made.save(path)
    assert HeadRanking.load(path) == made
    assert [p.name for p in path.parent.iterdir()] == ["heads.json"]


def changed(**values):
    return json.dumps(json.loads(ranking().to_json()) | values)


HEAD = json.loads(ranking().to_json())["heads"][0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ranking().to_json()[:200], "not a head ranking"),
        ("", "not a head ranking"),
        ("[]", r"\[\] is not a mapping"),
        (changed(threshold=1), "threshold: unknown key; valid keys are model, "),
        (changed(label_sources="x"), "label_sources: unknown key, did you mean 'label_source'"),
        (changed(heads={}), "heads: {} is not a list"),
        (changed(heads=[]), r"heads: \[\] must have a length of at least 1"),
        (changed(heads=[3]), r"heads\[0\]: 3 is not a mapping"),
        (changed(heads=[{"layer": 0}]), r"heads\[0\]\.head, heads\[0\]\.sra, .*: missing; add them"),
        (changed(heads=[HEAD, HEAD]), r"head \(0, 0\) is listed twice"),
        (changed(heads=[HEAD | {"layer": "0"}]), r"heads\[0\]\.layer: '0' is not a whole number"),
        (changed(heads=[HEAD | {"layer": True}]), r"heads\[0\]\.layer: True is not a whole number"),
        (changed(heads=[HEAD | {"head": -1}]), r"heads\[0\]\.head: -1 must be at least 0"),
        (changed(heads=[HEAD | {"sra": 1.5}]), r"heads\[0\]\.sra: 1\.5 must be at most 1"),
        (changed(heads=[HEAD | {"sra": float("nan")}]), r"heads\[0\]\.sra: nan is not a finite number"),
        (changed(min_chars="80"), "min_chars: '80' is not a whole number"),
        (changed(model=None), "model: None is not text"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, text, message):
    path = tmp_path / "heads.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(AttnPOError, match=message) as error:
        HeadRanking.load(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    assert str(error.value).endswith("; write it again with `attnpo probe`")


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(AttnPOError, match=r"No such file.*attnpo probe"):
        HeadRanking.load(tmp_path / "none.json")
    (tmp_path / "weights.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AttnPOError, match=r"weights\.json"):
        HeadRanking.load(tmp_path / "weights.json")


def test_reading_the_file_needs_no_torch():
    code = "import sys, attnpo.probing.heads; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
