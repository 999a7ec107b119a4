"""reproduce/diagnose_reach.py: the places where it continues a response."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from places import ROOT

from attnpo.method.steps import token_bytes_table
from attnpo.probing.settings import StepsSection
from attnpo.sampling.models import load_model
from attnpo.testbed import load_problems
from attnpo.testbed.problems import ChainProblem


@pytest.fixture(scope="module")
def script() -> Any:
    path = ROOT / "reproduce" / "diagnose_reach.py"
    spec = importlib.util.spec_from_file_location("diagnose_reach", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_prefixes_end_with_each_solved_link_and_with_the_first_slip(script: Any) -> None:
    settings = StepsSection(min_chars=1, lone_trigger_chars=1)
    _, tokenizer = load_model("testbed")
    item = next(p for p in load_problems("testbed", "shifted") if isinstance(p, ChainProblem) and p.chain == 5)
    ops, values = item.ops, item.values
    links = [f"Now {values[k]} {ops[k][0]} {ops[k][1]} = {values[k + 1]}." for k in range(5)]
    check = f"So we have {values[1]} so far."

    def of(*steps: str) -> dict[int, tuple[str, str]]:
        text = "\n".join(steps) + "\n</think>\n1"
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        found = script.prefixes(settings, item, ids, token_bytes_table(tokenizer))
        return {n: tuple(tokenizer.decode(part) for part in parts) for n, parts in found.items()}

    found = of(links[0], check, links[1], links[2], links[3], links[4])
    assert list(found) == [1, 2, 3, 4]  # behind the last link nothing is left to find
    assert found[1] == (links[0] + "\n", links[0] + "\n")
    assert found[2] == (f"{links[0]}\n{check}\n{links[1]}\n", f"{links[0]}\n{links[1]}\n")
    slipped = links[2].replace(f"= {values[3]}", f"= {(values[3] + 1) % 100}")
    assert list(of(links[0], check, links[1], slipped, links[2])) == [1, 2]
    ids = tokenizer("\n".join(links), add_special_tokens=False)["input_ids"]
    assert script.prefixes(settings, item, ids, token_bytes_table(tokenizer)) == {}  # no </think>
