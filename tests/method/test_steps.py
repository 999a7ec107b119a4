from __future__ import annotations

import json
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import SHARED
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from attnpo.errors import AttnPOError
from attnpo.method.steps import PHRASE_SETS, PhraseSet, StepKind, align_steps, split_steps, token_bytes_table

SEGMENTS = SHARED / "golden" / "segments.json"
LONG = " and so the sum of the first ten of them is what we are after, which is forty-two in all, it seems."
assert len(LONG) >= 80


def cut(text, *args, **kwargs):
    return [(text[s.start : s.end], StepKind(s.kind).name, s.trigger) for s in split_steps(text, *args, **kwargs)]


@pytest.mark.skipif(not SEGMENTS.exists(), reason="golden/segments.json lies beside the checkout only")
def test_published_boundaries():
    traces = json.loads(SEGMENTS.read_text())
    assert len(traces) == 100
    for trace in traces:
        thinking = trace["text"].split("</think>")[0]
        assert [list(step) for step in split_steps(thinking, "published")] == trace["segments"], trace["id"]


# --- merging rules, one by one ---


def test_long_pieces_are_steps_of_their_own():
    a, b, c, d = "Okay" + LONG + "\n", "First," + LONG + "\n", "So" + LONG + " ", "Wait" + LONG + "\n"
    e = "**Final Answer** 42"
    assert cut(a + b + c + d + e) == [
        (a, "FORWARD", None),  # a forward phrase at the very start follows no newline
        (b, "FORWARD", "First,"),
        (c, "BACKWARD", "So"),
        (d, "DOUBT", "Wait"),
        (e, "FINAL", "**Final Answer"),
    ]


def test_forward_and_backward_phrases_count_only_after_a_newline():
    text = "Add them" + LONG + " So" + LONG + " First," + LONG
    assert cut(text) == [(text, "FORWARD", None)]
    assert [s.trigger for s in split_steps(text.replace(" So", "\nSo"))] == [None, "So"]


def test_doubt_counts_anywhere_and_at_the_start():
    text = "Wait" + LONG + " But" + LONG
    assert [s.trigger for s in split_steps(text)] == ["Wait", "But"]


def test_the_longest_phrase_wins():
    text = "Start" + LONG + "\nHmm, let me check" + LONG + "\nOkay, so" + LONG + "\nLet me recap" + LONG
    assert [(s.trigger, s.kind) for s in split_steps(text)][1:] == [
        ("Hmm, let me check", StepKind.DOUBT),
        ("Okay, so", StepKind.BACKWARD),
        ("Let me recap", StepKind.DOUBT),
    ]


def test_a_rejected_phrase_still_uses_up_its_text():
    # " Hmm, so" follows no newline, so it opens nothing, and the phrase inside it is not looked for again.
    text = "Start" + LONG + " I " + LONG
    assert [s.trigger for s in split_steps(text, PhraseSet(doubt=("I",), forward=("I ",)))] == [None]


def test_short_doubt_merges_right():
    text = "Start" + LONG + " Wait, no. Alternatively, maybe. But" + LONG + "\nSo" + LONG
    assert [s.trigger for s in split_steps(text)] == [None, "Wait", "So"]


def test_short_doubt_stays_before_a_final_answer_and_at_the_end():
    text = "Start" + LONG + " Wait. **Final Answer** 4. Wait."
    assert [s.trigger for s in split_steps(text)] == [None, "Wait", "**Final Answer", "Wait"]


def test_short_forward_and_backward_before_doubt_merge_left():
    text = "Start" + LONG + "\nNow add 2.\nWait" + LONG + "\nSo it is 4, I think, twice.\nWait" + LONG
    assert [s.trigger for s in split_steps(text)] == [None, "Wait", "Wait"]
    assert text[split_steps(text)[0].end :].startswith("Wait")


def test_short_forward_before_doubt_stays_where_there_is_nothing_to_the_left():
    text = "Add. Wait" + LONG + "\nSo" + LONG
    assert [s.trigger for s in split_steps(text)] == [None, "Wait", "So"]


def test_doubt_as_the_very_last_piece_does_not_push_left():
    text = "Start" + LONG + "\nNow add 2.\nWait" + LONG
    assert [s.trigger for s in split_steps(text)] == [None, "Now"]
    text = "Start" + LONG + "\nSo.\nWait" + LONG
    assert [s.trigger for s in split_steps(text)] == [None, "So"]


def test_short_forward_merges_right_except_into_a_final_answer():
    text = "Start" + LONG + "\nNow add 2.\nSo" + LONG
    assert [s.trigger for s in split_steps(text)] == [None, "Now"]
    text = "Start" + LONG + "\nNow add 2.\n**Final Answer** 4"
    assert [s.trigger for s in split_steps(text)] == [None, "Now", "**Final Answer"]


def test_short_backward_merges_left():
    text = "Start" + LONG + "\nSo that is 4 for each of them.\nNow" + LONG
    assert [s.trigger for s in split_steps(text)] == [None, "Now"]
    text = "Start" + LONG + "\nSo it is 4.\n**Final Answer** 4"
    assert [s.trigger for s in split_steps(text)] == [None, "**Final Answer"]


@pytest.mark.parametrize(("extra", "triggers"), [(15, [None, "So"]), (16, [None, "Now"])])
def test_backward_with_little_behind_its_phrase_merges_right(extra, triggers):
    text = "Start" + LONG + "\nSo" + "x" * (extra - 1) + "\nNow" + LONG
    assert [s.trigger for s in split_steps(text)] == triggers


def test_backward_merges_left_into_a_final_answer():
    text = "Start" + LONG + "\n**Final Answer** 4\nThus it is 4, as we have seen."
    assert [s.trigger for s in split_steps(text)] == [None, "**Final Answer"]


def test_merging_left_looks_at_the_result_again():
    # "Now" stays short after "So" is merged into it, so it goes right in turn.
    text = "Start" + LONG + "\nNow a.\nSo we have that now, in the end.\nThen" + LONG
    assert [s.trigger for s in split_steps(text)] == [None, "Now"]


def test_minimum_length_counts_characters():
    text = "Start" + LONG + "\nNow" + "é" * 75 + "\n" + "\nSo" + LONG
    assert [s.trigger for s in split_steps(text)] == [None, "Now", "So"]
    assert [s.trigger for s in split_steps(text, min_chars=81)] == [None, "Now"]
    assert [s.trigger for s in split_steps("Hi\nNow a\nSo b\nWait\nWait", min_chars=1)] == [
        None,
        "Now",
        "So",
        "Wait",
        "Wait",
    ]


def test_phrase_sets_differ_by_the_missing_comma():
    published, corrected = PHRASE_SETS["published"].kinds(), PHRASE_SETS["corrected"].kinds()
    assert published.keys() - corrected.keys() == {"No,Let me double-check"}
    assert corrected.keys() - published.keys() == {"No,", "Let me double-check"}
    text = "Start" + LONG + " No," + LONG + "\nLet me double-check" + LONG
    assert [(s.trigger, s.kind) for s in split_steps(text, "corrected")][1:] == [
        ("No,", StepKind.DOUBT),
        ("Let me double-check", StepKind.DOUBT),
    ]
    assert [(s.trigger, s.kind) for s in split_steps(text, "published")][1:] == [("Let me", StepKind.FORWARD)]


def test_own_phrases():
    phrases = PhraseSet(doubt=("Moment",), backward=("Also",))
    assert cut("Eins\nAlso zwei Moment", phrases, min_chars=1) == [
        ("Eins\n", "FORWARD", None),
        ("Also zwei ", "BACKWARD", "Also"),
        ("Moment", "DOUBT", "Moment"),
    ]
    assert cut("Wait", PhraseSet()) == [("Wait", "FORWARD", None)]
    with pytest.raises(AttnPOError, match="unknown phrase set 'mine'"):
        split_steps("a", "mine")
    with pytest.raises(AttnPOError, match="'So' is listed twice"):
        PhraseSet(doubt=("So",), backward=("So",))
    with pytest.raises(AttnPOError, match="empty phrase among the forward"):
        PhraseSet(forward=("",))


# --- the same rules, written the plain quadratic way ---


def plain_split(text, phrase_set, min_chars=80, lone=15):
    kinds = phrase_set.kinds()
    parts, at, begin, trigger = [], 0, 0, None
    while at < len(text):
        here = max((p for p in kinds if text.startswith(p, at)), key=len, default=None)
        if here and (kinds[here] in (1, 4) or text[:at].endswith("\n")):
            if at:
                parts.append([text[begin:at], trigger])
            begin, trigger = at, here
        at += len(here or "x")
    parts += [[text[begin:], trigger]] if text else []

    def kind(part):
        return kinds.get(part[1], 2)

    i = 0
    while i < len(parts):
        part, after = parts[i], parts[i + 1 :]
        short = len(part[0]) < min_chars and kind(part) != 4
        can_right = bool(after) and kind(after[0]) != 4
        doubt_follows = len(after) > 1 and kind(after[0]) == 1
        is_lone = len(part[0]) - len(part[1] or "") <= lone
        if kind(part) == 1 or (kind(part) == 2 and not doubt_follows) or (not doubt_follows and is_lone and can_right):
            right, left = can_right, False
        else:
            right, left = False, i > 0
        if short and right:
            parts = [*parts[:i], [part[0] + after[0][0], part[1]], *after[1:]]
        elif short and left:
            parts = [*parts[: i - 1], [parts[i - 1][0] + part[0], parts[i - 1][1]], *after]
            i -= 1
        else:
            i += 1
    return [(text, StepKind(kind([text, trigger])).name, trigger) for text, trigger in parts]


fillers = st.sampled_from(["", "x", " one", " 4 + 4 = 8.", " It is what it is, é 🙂 数.", LONG])
phrases = st.sampled_from([p for kinds in PHRASE_SETS.values() for p in kinds.kinds()])
bits = st.builds(
    lambda newline, phrase, filler: newline + phrase + filler,
    st.sampled_from(["", " ", "\n", "\n\n"]),
    st.one_of(phrases, st.sampled_from(["Wait", "So", "Now", "**Final Answer", ""])),
    fillers,
)
texts = st.lists(bits, max_size=14).map("".join)


@settings(max_examples=400, deadline=None)
@given(texts, st.sampled_from(["published", "corrected"]), st.sampled_from([1, 30, 80]), st.sampled_from([0, 15]))
def test_matches_the_plain_reference_and_tiles_the_text(text, phrase_set, min_chars, lone):
    steps = split_steps(text, phrase_set, min_chars, lone)
    assert cut(text, phrase_set, min_chars, lone) == plain_split(text, PHRASE_SETS[phrase_set], min_chars, lone)
    assert "".join(text[s.start : s.end] for s in steps) == text
    assert all(s.start < s.end for s in steps)


def lines_executed(call):
    count = 0

    def trace(frame, event, _):
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(
    "unit", ["Wait, ", "\nSo it is 4, as it was before.\nNow a ", "\nSo", "\nNow four.\nWait", LONG + "\nSo"]
)
def test_work_is_linear_in_the_text(unit):
    small, large = (lines_executed(lambda n=n: split_steps(unit * n)) for n in (200, 800))
    assert large < 4.2 * small  # exactly linear is 4


def test_two_megabytes():
    for unit in ("Wait, ", "\nSo it is 4, as it was before.\n"):
        text = unit * (2_000_000 // len(unit))
        steps = split_steps(text)
        assert (steps[0].start, steps[-1].end) == (0, len(text))


# --- token alignment ---

TEXT = (
    "Okay, so 3 + 4 🙂 is 7, naïvely.\nSo 数学 says: 7 ÷ 2 = 3.5 in all, 👩‍🔬 agrees with it.\n\nWait"
    ", is it 15? No, 14 🙂🙂.\n**Final Answer** 14\n"
)


# As in DeepSeek-R1: letters outside ASCII and outside the byte alphabet.
R1_EOS = "<\uff5cend\u2581of\u2581sentence\uff5c>"


def byte_level_tokenizer(special_tag: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    corpus = ["So it is 14. Wait, is it 15? Wait Wait Wait So So, in all in all agrees"] * 4
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens([R1_EOS])
    if special_tag:
        tokenizer.add_tokens([AddedToken("</think>", normalized=False)])
    return tokenizer


def sentencepiece_like_tokenizer() -> Tokenizer:
    pieces = ["<unk>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "▁▁"]
    pieces += sorted({c for c in TEXT if c.isascii() and not c.isspace()} | set("</think>"))
    merges = [("W", "a"), ("i", "t"), ("Wa", "it"), ("▁", "i"), ("S", "o"), ("▁i", "n")]
    pieces += [a + b for a, b in merges]
    model = models.BPE(
        {p: i for i, p in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.add_tokens([AddedToken("▁▁", normalized=True)])
    return tokenizer


TOKENIZERS = {
    "bytes, one tag token": byte_level_tokenizer(True),
    "bytes, spelled tag": byte_level_tokenizer(False),
    "sentencepiece": sentencepiece_like_tokenizer(),
}
TABLES = {name: token_bytes_table(t) for name, t in TOKENIZERS.items()}


def check_alignment(ids, table, thinking, result, **kwargs):
    """Every token is where its last byte is, found by looking at each one on its own."""
    expected_steps = split_steps(thinking, **kwargs)
    assert result.steps == expected_steps
    assert result.text == thinking
    assert len(result.step_of_token) == len(ids)
    n_bytes = len(thinking.encode())
    step_of_byte = [k for k, s in enumerate(expected_steps) for _ in thinking[s.start : s.end].encode()]
    end = 0
    for n, i in enumerate(ids):
        begin, end = end, end + len(table[i])
        expected = step_of_byte[end - 1] if end <= n_bytes else -1
        assert result.step_of_token[n] == expected
        assert (result.thinking[0] <= n < result.thinking[1]) == (end <= n_bytes)
        assert (result.answer[0] <= n < result.answer[1]) == (begin >= n_bytes + len("</think>"))


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("min_chars", [1, 80])
def test_alignment_on_real_ids(name, min_chars):
    tokenizer, table = TOKENIZERS[name], TABLES[name]
    eos = "</s>" if name == "sentencepiece" else R1_EOS
    ids = tokenizer.encode(TEXT + "</think>\n\nIt is 14 🙂." + eos).ids
    assert b"".join(table[i] for i in ids).decode() == TEXT + "</think>\n\nIt is 14 🙂." + eos
    assert any(not table[i].isascii() and len(table[i]) == 1 for i in ids)  # characters over several tokens
    result = align_steps(ids, table, min_chars=min_chars)
    check_alignment(ids, table, TEXT, result, min_chars=min_chars)
    assert len(result.steps) == (5 if min_chars == 1 else 3)
    assert result.answer[1] == len(ids) and tokenizer.id_to_token(ids[-1]) == eos
    tag_tokens = result.answer[0] - result.thinking[1]
    assert tag_tokens == 1 if name == "bytes, one tag token" else tag_tokens > 1


@pytest.mark.parametrize("name", TOKENIZERS)
def test_table_agrees_with_the_decoder(name):
    tokenizer, table = TOKENIZERS[name], TABLES[name]
    assert len(table) == max(tokenizer.get_vocab().values()) + 1
    for i, spelled in enumerate(table):
        decoded = tokenizer.decode([i], skip_special_tokens=False)
        assert decoded == spelled.decode("utf-8", "replace"), tokenizer.id_to_token(i)


def test_table_of_a_transformers_tokenizer():
    transformers = pytest.importorskip("transformers")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=TOKENIZERS["bytes, one tag token"])
    assert token_bytes_table(fast) == TABLES["bytes, one tag token"]


def test_gaps_in_the_vocabulary_stand_for_nothing():
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 3}, []))
    tokenizer.decoder = decoders.ByteLevel()
    assert token_bytes_table(tokenizer) == [b"a", b"", b"", b"b"]


def test_metaspace_is_sentencepiece():
    tokenizer = Tokenizer(models.BPE({"▁a": 0, "<0xF0>": 1}, []))
    tokenizer.decoder = decoders.Metaspace()
    assert token_bytes_table(tokenizer) == [b" a", b"\xf0"]


def test_unsupported_tokenizers_are_named():
    word_piece = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    with pytest.raises(AttnPOError, match="decoder None"):
        token_bytes_table(word_piece)
    word_piece.decoder = decoders.WordPiece()
    with pytest.raises(AttnPOError, match="WordPiece"):
        token_bytes_table(word_piece)
    with pytest.raises(AttnPOError, match="object has no fast backend"):
        token_bytes_table(object())


def align(*pieces, **kwargs):
    return align_steps(range(len(pieces)), list(pieces), **{"min_chars": 1} | kwargs)


def test_a_token_goes_with_the_step_of_its_last_byte():
    result = align(b"A", b" Wait", b".\n\nSo", b" b", b".\nSo\n", b"</think>", b"4")
    # ".\n\nSo" opens the third step; ".\nSo\n" opens the fourth.
    assert result.step_of_token == [0, 1, 2, 2, 3, -1, -1]
    assert [result.text[s.start : s.end] for s in result.steps] == ["A ", "Wait.\n\n", "So b.\n", "So\n"]


def test_a_step_may_have_no_token():
    result = align(b"A\nSo\nSo\nNow", b"x", b"</think>", b"4")
    assert len(result.steps) == 4
    assert result.step_of_token == [3, 3, -1, -1]


def test_tokens_that_share_bytes_with_the_tag_are_in_neither_part():
    result = align(b"A Wait", b"?</", b"think", b">\n", b"4", b"")
    assert result.text == "A Wait?"
    assert result.step_of_token == [1, -1, -1, -1, -1, -1]
    assert (result.thinking, result.answer) == ((0, 1), (4, 6))


def test_tokens_without_bytes():
    result = align(b"", b"A ", b"", b"Wait", b"", b"</think>", b"", b"4")
    assert result.step_of_token == [0, 0, 0, 1, 1, -1, -1, -1]
    assert (result.thinking, result.answer) == ((0, 5), (6, 8))
    beyond = align_steps([0, 99, 1, 2], [b"A", b"</think>", b"4"])
    assert beyond.step_of_token == [0, 0, -1, -1]


def test_invalid_utf8_shifts_nothing():
    # A cut emoji, a lone continuation byte, and an encoded surrogate, each before a phrase.
    result = align(b"\xf0\x9f", b"\x99 ", b"Wait\x80", b"\xed\xa0\x80\n", b"So", b"\xff", b"</think>", b"4")
    assert result.step_of_token == [0, 0, 1, 1, 2, 2, -1, -1]
    assert [s.start for s in result.steps] == [0, 4, 13]
    assert result.text == "\ufffd" * 3 + " Wait" + "\ufffd" * 4 + "\nSo\ufffd"
    assert result.text.encode()


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        (b"",),
        (b"A", b"4"),
        (b"A", b"</think>"),
        (b"A", b"</think>4"),
        (b"</think>", b"4"),
        (b"", b"</think>", b"4"),
        (b"A</", b"think>", b"4"),
        (b"A", b"</think>", b"4", b"</think>", b"4"),
        (b"A", b"</think></think>", b"4"),
    ],
)
def test_no_alignment(pieces):
    assert align(*pieces) is None


def test_masked_ids_are_refused():
    with pytest.raises(AttnPOError, match="token id -100"):
        align_steps([0, -100], [b"A"])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_alignment_of_any_cut_into_tokens(data):
    thinking = data.draw(texts.filter(bool))
    raw = (thinking + "</think>\n4").encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=30)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True) if a < b]
    result = align_steps(range(len(pieces)), pieces, "corrected", 30)
    tag_start = len(thinking.encode())
    starts = {len(b"".join(pieces[:n])) for n in range(len(pieces) + 1)}
    first_ends, last_starts = min(starts - {0}), max(starts - {len(raw)})
    if first_ends > tag_start or last_starts < tag_start + len("</think>"):
        assert result is None
        return
    check_alignment(range(len(pieces)), pieces, thinking, result, min_chars=30)


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=60), st.integers(1, 5))
def test_alignment_of_any_bytes(raw, width):
    pieces = [raw[n : n + width] for n in range(0, len(raw), width)]
    result = align(*pieces, b"</think>", b"4", phrases=PhraseSet(doubt=("\ufffd",)))
    assert result.step_of_token[:-2] == sorted(result.step_of_token[:-2])
    assert -1 not in result.step_of_token[:-2]
    assert result.steps[-1].end == len(result.text)
    assert re.sub("\ufffd", "", result.text) == raw.decode("utf-8", "ignore").replace("\ufffd", "")
    # The step of the last token always holds the text's last character.
    assert result.step_of_token[-3] == len(result.steps) - 1
