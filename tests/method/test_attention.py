from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask
from transformers.models.llama.modeling_llama import eager_attention_forward

from attnpo.errors import AttnPOError
from attnpo.method import attention
from attnpo.method.attention import all_heads, attention_received, read_attention
from attnpo.method.scores import step_scores

SHAPE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
"""For families whose defaults lie outside of the small vocabulary."""
LOCAL_GLOBAL = ["sliding_attention", "full_attention"] * 2
CONFIGS = {
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "qwen2_window": lambda: Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=4, max_window_layers=2),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=12),
    "llama": lambda: LlamaConfig(**SHAPE),
    "mistral": lambda: MistralConfig(**SHAPE, sliding_window=None),
    "mistral_window": lambda: MistralConfig(**SHAPE, sliding_window=5),
    "gemma3": lambda: Gemma3TextConfig(
        **SHAPE,
        head_dim=16,
        query_pre_attn_scalar=7,
        sliding_window=4,
        layer_types=LOCAL_GLOBAL,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
        },
    ),
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **SHAPE, head_dim=12, moe_intermediate_size=24, num_experts=4, num_experts_per_tok=2
    ),
    "phi": lambda: PhiConfig(**SHAPE, partial_rotary_factor=0.5),
    "phi3": lambda: Phi3Config(**SHAPE | TOKENS),
    "phi3_window": lambda: Phi3Config(**SHAPE | TOKENS, sliding_window=5),
    "olmo2": lambda: Olmo2Config(**SHAPE | TOKENS),
    # Not required, but the one family whose softcap reaches the attention function.
    "gemma2_softcap": lambda: Gemma2Config(
        **SHAPE, head_dim=16, sliding_window=4, attn_logit_softcapping=0.5, layer_types=LOCAL_GLOBAL
    ),
}
# Lengths of the rows; the batch is 14 wide, so that windows of 4 and 5 hide something.
LENGTHS = [14, 9, 3, 11]


def build(config, backend="eager", scale=0.4):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=backend)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Sharp attention: the default initialisation is so near to uniform that mistakes would hide.
            parameter.normal_(0, 1.0 if "norm" in name else scale)
    return model


def batch(side, lengths=LENGTHS, seed=1):
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    ids = torch.randint(1, SHAPE["vocab_size"], (len(lengths), width), generator=generator)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        if side == "left":
            mask[row, width - length :] = 1
        elif side == "right":
            mask[row, :length] = 1
        else:  # both, as prompts and completions are laid out in training
            start = (width - length) // 2
            mask[row, start : start + length] = 1
    # F: the last tokens of each row, a different number in each, none in the last row.
    queries = torch.zeros_like(mask).bool()
    for row, length in enumerate(lengths[:-1]):
        last = int(mask[row].nonzero()[-1])
        queries[row, last + 1 - max(1, length // 3) : last + 1] = True
    return ids * mask, mask, queries


def eager_reference(model, ids, mask, heads, queries):
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        attentions = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            output_attentions=True,
            use_cache=False,
        ).attentions
    model.train(was_training)
    weights = torch.stack([attentions[layer][:, head] for layer, head in heads], 1)
    return (weights * queries[:, None, :, None]).sum(2)


@pytest.mark.parametrize("side", ["left", "right", "both"])
@pytest.mark.parametrize("name", CONFIGS)
def test_equals_eager_attention(name, side):
    model = build(CONFIGS[name]())
    ids, mask, queries = batch(side)
    heads = all_heads(model)
    assert len(heads) == 16
    want = eager_reference(model, ids, mask, heads, queries)
    got = attention_received(model, ids, mask, heads, queries)
    # 1e-5: the bound in float32; seen about 1e-6.
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    assert want.std() > 0.05  # far from uniform, so the comparison says something


def without_mask(module, query, key, value, attention_mask, sliding_window=None, **kwargs):
    """As flash attention is called: no mask, the window as an argument."""
    assert attention_mask is None
    distance = torch.arange(query.shape[2])[:, None] - torch.arange(query.shape[2])
    window = (distance >= 0) & (distance < (sliding_window or query.shape[2]))
    return sdpa_attention_forward(module, query, key, value, window[None, None], **kwargs)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "gemma2_softcap"])  # sdpa has no softcap
@pytest.mark.parametrize("backend", ["sdpa", "without_mask"])
def test_any_attention_backend(name, backend, monkeypatch):
    monkeypatch.setitem(AttentionInterface._global_mapping, "without_mask", without_mask)
    eager = build(CONFIGS[name]())
    model = build(CONFIGS[name](), backend)
    model.load_state_dict(eager.state_dict())
    ids, mask, queries = batch("left")
    heads = all_heads(model)
    want = eager_reference(eager, ids, mask, heads, queries)
    torch.testing.assert_close(attention_received(model, ids, mask, heads, queries), want, atol=1e-5, rtol=0)


def token_mask(module, query, key, value, attention_mask, sliding_window=None, **kwargs):
    """As flash attention is called: a mask (B, T) where there is padding, the window as an argument."""
    distance = torch.arange(query.shape[2])[:, None] - torch.arange(query.shape[2])
    window = (distance >= 0) & (distance < (sliding_window or query.shape[2]))
    seen = torch.ones(1, 1) if attention_mask is None else attention_mask
    # Padding sees itself, as a row that sees nothing has no softmax.
    visible = (window & seen[:, None, None].bool()) | (distance == 0)
    return sdpa_attention_forward(module, query, key, value, visible, **kwargs)


@pytest.mark.parametrize("side", ["left", "right", "both"])
@pytest.mark.parametrize("backend", ["eager", "sdpa", "token_mask"])
@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "gemma2_softcap"])  # sdpa has no softcap
def test_a_pass_of_the_callers_is_read_with_its_padding(name, backend, side, monkeypatch):
    monkeypatch.setitem(AttentionInterface._global_mapping, "token_mask", token_mask)
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, "token_mask", flash_attention_mask)
    model = build(CONFIGS[name](), backend)
    ids, mask, queries = batch(side)
    queries[1] = False
    heads = all_heads(model)
    # Without position ids, as TRL calls it: counted from the padding, which rotary positions do not see.
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=mask).logits
        with read_attention(model, mask, heads, queries, chunk_rows=8) as received:
            read = model(input_ids=ids, attention_mask=mask).logits
    assert torch.equal(plain, read)
    want = attention_received(model, ids, mask, heads, queries)
    torch.testing.assert_close(received, want, atol=1e-5, rtol=0)  # rotary angles of other positions round otherwise
    assert not received[1].any()
    assert not received.masked_select(~mask.bool()[:, None]).any()


def test_a_pass_that_is_not_made_is_noticed():
    model = build(CONFIGS["qwen2"]())
    _, mask, queries = batch("both")
    with pytest.raises(AttnPOError, match="layer 1 .* does not call"), read_attention(model, mask, [(1, 0)], queries):
        pass
    assert type(model.model.layers[1].self_attn.config) is Qwen2Config


@pytest.mark.parametrize("options", [{"chunk_rows": 1}, {"chunk_rows": 7}, {"batch_size": 2}, {"stop_early": False}])
def test_options_do_not_change_the_scores(options):
    model = build(CONFIGS["gemma3"](), "sdpa")
    ids, mask, queries = batch("both")
    heads = [(2, 3), (0, 1), (2, 0)]  # out of order
    want = attention_received(model, ids, mask, heads, queries)
    got = attention_received(model, ids, mask, heads, queries, **options)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)  # the order of float32 sums differs
    assert want[-1].eq(0).all()  # no queries


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("share", [0.0, 0.05])
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_a_mechanism_that_takes_a_small_share_is_refused_in_any_precision(dtype, share, backend, monkeypatch):
    def shrunk(module, *args, **kwargs):
        inner = sdpa_attention_forward if backend == "sdpa" else eager_attention_forward
        output, weights = inner(module, *args, **kwargs)
        return output * (1 - share), weights

    monkeypatch.setitem(AttentionInterface._global_mapping, "shrunk", shrunk)
    monkeypatch.setitem(
        AttentionMaskInterface._global_mapping, "shrunk", AttentionMaskInterface._global_mapping[backend]
    )
    model = build(CONFIGS["llama"](), "shrunk").to(dtype)
    ids, mask, queries = batch("left")
    if share:
        with pytest.raises(AttnPOError, match=r"layer 0 .*output off by 0\.05"):
            attention_received(model, ids, mask, [(0, 0)], queries)
    else:
        attention_received(model, ids, mask, all_heads(model), queries)


def test_half_precision_is_close():
    model = build(CONFIGS["qwen2"](), "sdpa", scale=0.2)
    ids, mask, queries = batch("left")
    heads = [(1, 2), (0, 3)]
    want = attention_received(model, ids, mask, heads, queries)
    got = attention_received(model.to(torch.bfloat16), ids, mask, heads, queries)
    assert got.dtype == torch.float32
    # bfloat16 has 8 bits of mantissa; the weights went through two layers of it.
    torch.testing.assert_close(got, want, atol=0.1, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        cast = attention_received(model.float(), ids, mask, heads, queries)
    assert cast.dtype == torch.float32
    torch.testing.assert_close(cast, want, atol=0.1, rtol=0)


def state(model):
    configs = [id(module.config) for module in model.modules() if hasattr(module, "config")]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    return (
        configs,
        hooks,
        [m.training for m in model.modules()],
        model.config.to_dict(),
        model.config._attn_implementation,
    )


def test_leaves_the_model_as_it_was():
    model = build(CONFIGS["qwen2"](), "sdpa").train()
    model.model.layers[1].eval()  # mixed modes come back as mixed
    ids, mask, queries = batch("left")
    before, parameters = state(model), {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    received = attention_received(model, ids, mask, [(1, 0)], queries)
    assert not received.requires_grad
    assert state(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(v, parameters[k]) for k, v in model.state_dict().items())


def test_leaves_the_model_as_it_was_after_an_exception(monkeypatch):
    model = build(CONFIGS["qwen2"](), "sdpa").train()
    ids, mask, queries = batch("left")
    before = state(model)

    def fail(*args, **kwargs):
        raise RuntimeError("device lost")

    monkeypatch.setattr(model.model.layers[1].mlp, "forward", fail)
    with pytest.raises(RuntimeError, match="device lost"):
        attention_received(model, ids, mask, [(0, 1), (2, 0)], queries)
    assert state(model) == before


def test_dropout_is_off():
    model = build(Qwen2Config(**SHAPE, attention_dropout=0.5)).train()
    ids, mask, queries = batch("left")
    first = attention_received(model, ids, mask, [(3, 0)], queries)
    assert torch.equal(first, attention_received(model, ids, mask, [(3, 0)], queries))
    torch.testing.assert_close(first, eager_reference(model, ids, mask, [(3, 0)], queries), atol=1e-5, rtol=0)


def test_stops_after_the_last_wanted_layer():
    model = build(CONFIGS["llama"]())
    ran = []
    for number, layer in enumerate(model.model.layers):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    model.lm_head.register_forward_hook(lambda *_: ran.append("head"))
    ids, mask, queries = batch("left")
    attention_received(model, ids, mask, [(1, 0), (0, 2)], queries)
    assert ran == [0, 1]
    ran.clear()
    attention_received(model, ids, mask, [(1, 0)], queries, stop_early=False)
    assert ran == [0, 1, 2, 3, "head"]


def test_without_queries_nothing_runs_unless_every_process_must():
    model = build(CONFIGS["llama"]())
    ran = []
    model.model.layers[0].register_forward_hook(lambda *_: ran.append(1))
    ids, mask, queries = batch("left")
    none = torch.zeros_like(queries)
    assert attention_received(model, ids, mask, [(1, 0)], none).eq(0).all()
    assert not ran
    assert attention_received(model, ids, mask, [(1, 0)], none, stop_early=False, batch_size=3).eq(0).all()
    assert len(ran) == 2


def test_wrapped_and_bare_models():
    model = build(CONFIGS["qwen3"](), "sdpa")
    ids, mask, queries = batch("left")
    heads = [(1, 0), (3, 3)]
    want = attention_received(model, ids, mask, heads, queries)

    class Wrapper(nn.Module):  # as DDP and DeepSpeed engines look
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, **kwargs):
            return self.module(**kwargs)

    for wrapped in (Wrapper(model), Wrapper(Wrapper(model)), model.model):
        assert all_heads(wrapped) == all_heads(model)
        for early in (True, False):
            assert torch.equal(attention_received(wrapped, ids, mask, heads, queries, stop_early=early), want)


def test_errors_name_the_valid_range():
    model = build(CONFIGS["qwen2"]())
    ids, mask, queries = batch("left")
    for head in [(4, 0), (0, 4), (-1, 0), (0, -1)]:
        with pytest.raises(AttnPOError, match=r"layers 0 to 3 and heads 0 to 3"):
            attention_received(model, ids, mask, [(0, 0), head], queries)
    with pytest.raises(AttnPOError, match="no heads"):
        attention_received(model, ids, mask, [], queries)
    with pytest.raises(AttnPOError, match="padding tokens"):
        attention_received(model, ids, mask, [(0, 0)], ~mask.bool())
    with pytest.raises(AttnPOError, match="differ"):
        attention_received(model, ids, mask[:, 1:], [(0, 0)], queries)
    with pytest.raises(AttnPOError, match="at least 1"):
        attention_received(model, ids, mask, [(0, 0)], queries, chunk_rows=0)
    with pytest.raises(AttnPOError, match="Linear has no decoder layers"):
        all_heads(nn.Linear(2, 2))


def test_attention_sinks_are_refused():
    shape = SHAPE | {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8}
    model = build(GptOssConfig(**shape, sliding_window=4))
    ids, mask, queries = batch("left")
    before = state(model)
    with pytest.raises(AttnPOError, match=r"layer 1 .*has attention sinks \(`s_aux`\)"):
        attention_received(model, ids, mask, [(1, 0)], queries)
    assert state(model) == before


def test_attention_that_is_not_a_plain_softmax_is_refused():
    """The comparison with the model's own output, here with a backend that forgets a softcap."""
    model = build(CONFIGS["gemma2_softcap"](), "sdpa")
    ids, mask, queries = batch("left")
    with pytest.raises(AttnPOError, match=r"layer 1 .*not a plain softmax"):
        attention_received(model, ids, mask, [(1, 0)], queries)


def test_bidirectional_attention_is_refused():
    config = CONFIGS["gemma3"]()
    config.use_bidirectional_attention = True
    ids, mask, queries = batch("left")
    with pytest.raises(AttnPOError, match="not causal"):
        attention_received(build(config), ids, mask, [(1, 0)], queries)


def test_broken_weights_are_named():
    model = build(CONFIGS["qwen2"](), "sdpa")
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.weight[0, 0] = torch.nan
    ids, mask, queries = batch("left")
    assert attention_received(model, ids, mask, [(0, 0)], queries).isfinite().all()
    with pytest.raises(AttnPOError, match=r"\(1, 1\) is not finite"):
        attention_received(model, ids, mask, [(0, 0), (1, 1)], queries)


def test_memory_is_chunk_rows_times_tokens(monkeypatch):
    model = build(CONFIGS["gemma3"](), "sdpa")
    ids, mask, _ = batch("left")
    sizes = []

    def measured(*args):
        weights = rows(*args)
        sizes.append(weights.numel())
        return weights

    rows = attention._attention_rows
    monkeypatch.setattr(attention, "_attention_rows", measured)
    attention_received(model, ids, mask, all_heads(model), mask.bool(), chunk_rows=8)
    assert max(sizes) <= 8 * mask.shape[1]


@pytest.fixture
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_distributed_wrappers(one_process):
    model = build(CONFIGS["qwen3"](), "sdpa")
    ids, mask, queries = batch("left")
    heads = [(1, 0), (3, 3)]
    want = attention_received(model, ids, mask, heads, queries)
    wrapped = nn.parallel.DistributedDataParallel(model)
    for early in (True, False):
        assert torch.equal(attention_received(wrapped, ids, mask, heads, queries, stop_early=early), want)
    mesh = init_device_mesh("cpu", (1,))
    for module in (*model.model.layers, model):
        fully_shard(module, mesh=mesh)
    assert torch.equal(attention_received(model, ids, mask, heads, queries, stop_early=False), want)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    seed=st.integers(0, 99),
    chunk=st.integers(1, 40),
)
def test_every_query_gives_one_unit_of_attention(lengths, seed, chunk):
    model = build(CONFIGS["gemma3"](), "sdpa")
    ids, mask, _ = batch(["left", "right", "both"][seed % 3], lengths, seed)
    queries = mask.bool() & (torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed)) < 0.5)
    received = attention_received(model, ids, mask, [(0, 1), (1, 3)], queries, chunk_rows=chunk)
    assert received.ge(0).all() and received[~mask.bool()[:, None].expand_as(received)].eq(0).all()
    want = queries.sum(1, keepdim=True).float().expand(-1, 2)
    torch.testing.assert_close(received.sum(2), want, atol=1e-5, rtol=1e-5)  # float32 sums of up to 12 rows


def test_uniform_attention_gives_the_uniform_step_score():
    model = build(CONFIGS["qwen2"](), "sdpa")
    for layer in model.model.layers:
        nn.init.zeros_(layer.self_attn.q_proj.weight)
        nn.init.zeros_(layer.self_attn.q_proj.bias)
    ids, mask, _ = batch("left", [12, 8])
    queries = torch.zeros_like(mask).bool()
    queries[:, -1] = True  # the last token sees all |q| + |o| tokens
    received = attention_received(model, ids, mask, [(2, 0)], queries)
    steps = torch.full_like(mask, -1)
    steps[:, -8:-5], steps[:, -5:-2] = 0, 1
    scores = step_scores(received, steps, 2)
    # |F| / (|q| + |o|) with |F| = 1: the paper's baseline score without its p**2.
    want = torch.tensor([1 / 12, 1 / 8])[:, None, None].expand(2, 1, 2)
    torch.testing.assert_close(scores, want)


def test_step_scores_are_means_over_the_steps_tokens():
    received = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 5.0]], [[5.0, 1.0, 1.0, 1.0, 1.0]]])
    steps = torch.tensor([[-1, 0, 0, 2, -1], [0, 0, 0, 0, 0]])
    scores = step_scores(received, steps, 3)
    assert scores.shape == (2, 1, 3)
    nan = torch.nan
    torch.testing.assert_close(scores, torch.tensor([[[2.5, nan, 4.0]], [[1.8, nan, nan]]]), equal_nan=True)
    assert step_scores(received, torch.full_like(steps, -1), 0).shape == (2, 1, 0)
    with pytest.raises(AttnPOError, match="step ids -1 to 2: give -1 to 1"):
        step_scores(received, steps, 2)
    with pytest.raises(AttnPOError, match="do not fit"):
        step_scores(received, steps[:, :3], 3)
