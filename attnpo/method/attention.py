"""Attention that chosen heads of a stock transformers decoder pay, summed over the answer's tokens.

How: a wanted layer's attention module sees, for one forward pass, a config whose attention function first
hands post-RoPE queries and keys to us and then calls the function that the model was loaded with. So the
model's own position embedding, query norm, scaling and softcap are the ones used, and its masks are built
as ever. Softmax rows are computed for the answer's tokens only, a chunk at a time. In every layer a few of
these rows are multiplied with the values and compared with what the model's attention returned: a mechanism
that plain softmax does not describe (attention sinks, position biases) ends in an error, not in wrong scores.

Padding: the forward pass of `attention_received` runs on sequences moved to the left edge, without a mask. A causal
model never looks at what stands behind a token, so this equals any padding side with position ids counted from the
first real token (attention_mask.cumsum(1) - 1), while attention backends keep their fast causal path. `read_attention`
reads a pass that somebody else makes, with the padding that it has.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from attnpo.errors import AttnPOError

Head = tuple[int, int]  # (layer, head), both from 0

Watch = Callable[[Tensor, Tensor, list[int], Tensor], None]
"""Is shown softmax rows as they are computed: the sequences (b,), the places of their queries (b, c), the columns of
the h heads in the list that was asked for, and the rows (b, h, c, n), n keys from the first token on."""

_CAPTURE = "attnpo_capture"
# Relative L2 distance allowed between our attention output and the model's. Float32 leaves room for TF32 kernels. In
# half precision fused kernels are .002 off (benchmarks/half_precision.py); eager attention adds `_allowed`.
_TOLERANCE, _HALF_TOLERANCE = 1e-2, 2e-2
# Tensors that a plain softmax ignores. Any other that a model hands its attention function, such as `s_aux`
# (sinks), is taken to change it.
_HARMLESS = {"position_ids", "cache_position"}


def all_heads(model: nn.Module) -> list[Head]:
    """Every (layer, head) of a decoder that has softmax attention, in order.

    Raises AttnPOError if `model` is not a transformers decoder, bare or wrapped as in `attention_received`.
    """
    decoder = _decoder(_unwrap(model))
    n_heads = decoder.config.num_attention_heads
    return [
        (number, head)
        for number, layer in enumerate(decoder.layers)
        if hasattr(layer, "self_attn")
        for head in range(n_heads)
    ]


def check_heads(model: nn.Module, heads: Sequence[Head]) -> None:
    """Raises AttnPOError for a layer or head that the model lacks; the line names those that it has."""
    _heads_by_layer(_decoder(_unwrap(model)), heads)


@torch.no_grad()
def attention_received(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    heads: Sequence[Head],
    query_mask: Tensor,
    chunk_rows: int = 4096,
    batch_size: int | None = None,
    stop_early: bool = True,
    watch: Watch | None = None,
) -> Tensor:
    """Attention that each token receives from the tokens of F (paper: sum over m in F of a[m -> n]).

    Args:
        model: a transformers decoder with or without language-model head, also inside DDP, FSDP, DeepSpeed,
            torch.compile or PEFT wrappers. It runs in evaluation mode without gradients, in the caller's
            autocast context, and is left as it was found, also after an exception.
        input_ids, attention_mask: (B, T); any padding side. Tokens with mask 0 are skipped as if absent.
        heads: (layer, head) pairs, both from 0.
        query_mask: (B, T) bool, the tokens of F. Sequences without any get zeros (and, with `stop_early`, no
            forward pass).
        chunk_rows: attention rows (one head, one query) held at a time: memory is chunk_rows * T floats.
        batch_size: sequences a forward pass, alike in length; default all at once.
        stop_early: end the forward pass after the last wanted layer. Under ZeRO-3 and FSDP pass False: the
            wrapped model is then called as in training, all layers, ceil(B / batch_size) times a process.
        watch: is shown the rows that are summed, as of sequences without padding, numbered within their forward pass.
            Where sequences have unlike numbers of queries, filling repeats a query.

    Returns:
        (B, H, T) float32 in the order of `heads`; 0 at padding. Each row of F contributes a total of 1.

    Raises:
        AttnPOError: a layer or head that the model lacks, shapes that do not fit, a query on padding, an
            architecture whose attention cannot be read, or scores that are not finite.
    """
    decoder = _decoder(_unwrap(model))
    layers = _heads_by_layer(decoder, heads)
    _check_inputs(input_ids, attention_mask, query_mask, chunk_rows, batch_size)
    n_sequences, n_tokens = input_ids.shape
    received = torch.zeros(n_sequences, len(heads), n_tokens, device=input_ids.device)
    present, queries = attention_mask.bool(), query_mask.bool()
    lengths, counts = present.sum(1).tolist(), queries.sum(1).tolist()
    wanted = [s for s in range(n_sequences) if counts[s] or not stop_early]
    wanted.sort(key=lambda s: -lengths[s])
    # Stable sort: the real tokens in their order, then the padding.
    order = torch.argsort((~present).int(), dim=1, stable=True)
    with _scoring_mode(model, decoder, max(layers) + 1 if stop_early else None):
        step = batch_size or max(n_sequences, 1)
        for start in range(0, len(wanted), step):
            batch = wanted[start : start + step]
            places = order[batch, : max(max(lengths[s] for s in batch), 1)]
            chunks = _plan(
                queries[batch].gather(1, places),
                torch.zeros(len(batch), dtype=torch.long, device=input_ids.device),
                [lengths[s] for s in batch],
                max(1, chunk_rows // max(map(len, layers.values()))),
            )
            out = torch.zeros(len(batch), len(heads), places.shape[1], device=input_ids.device)
            ids = input_ids[batch].gather(1, places)
            with _reading(decoder, layers, chunks, out, watch):
                if stop_early:
                    decoder(input_ids=ids, use_cache=False)
                else:
                    model(input_ids=ids, use_cache=False, **_one_logit(model))
            index = places[:, None].expand(-1, len(heads), -1)
            received[batch] = received[batch].scatter(2, index, out)
    _check_finite(received, heads)
    return received


@contextmanager
def read_attention(
    model: nn.Module,
    attention_mask: Tensor,
    heads: Sequence[Head],
    query_mask: Tensor,
    chunk_rows: int = 4096,
) -> Iterator[Tensor]:
    """Read the heads during the one forward pass that the caller makes inside, without gradients.

    The pass is the caller's: its mode, its layers, its masks. So no dropout may be on, and positions must be relative
    (rotary) where it counts them from the padding.

    Args:
        model, heads, query_mask, chunk_rows: as for `attention_received`.
        attention_mask: (B, T) as the pass is given it; the tokens of a sequence stand together, padding on both sides.

    Yields:
        (B, H, T) as `attention_received` returns it, filled in by the pass.

    Raises:
        AttnPOError: as `attention_received`; also if the pass does not reach a wanted layer.
    """
    decoder = _decoder(_unwrap(model))
    layers = _heads_by_layer(decoder, heads)
    _check_inputs(attention_mask, attention_mask, query_mask, chunk_rows, None)
    present, width = attention_mask.bool(), attention_mask.shape[1]
    starts = present.int().argmax(1)
    ends = torch.where(present.any(1), width - present.flip(1).int().argmax(1), 0).tolist()
    chunks = _plan(query_mask.bool(), starts, ends, max(1, chunk_rows // max(map(len, layers.values()))))
    received = torch.zeros(len(present), len(heads), width, device=attention_mask.device)
    with _reading(decoder, layers, chunks, received):
        yield received
    _check_finite(received, heads)


class _Chunk(NamedTuple):
    """Rows computed at once: c queries in each of b sequences."""

    sequences: Tensor  # (b,)
    rows: Tensor  # (b, c) token positions
    valid: Tensor  # (b, c) float, 0 for filling
    starts: Tensor  # (b,) keys before this one are padding
    n_keys: int  # keys behind this one are padding in all b sequences


def _plan(queries: Tensor, starts: Tensor, ends: list[int], rows_at_once: int) -> list[_Chunk]:
    """Cut the queries (B, T) into chunks of at most `rows_at_once`, sequences with similar |F| together.

    starts, ends: the first token of each of the B sequences, and one past the last.
    """
    device = queries.device
    counts = queries.sum(1).tolist()
    by_count = sorted((s for s in range(len(counts)) if counts[s]), key=lambda s: -counts[s])
    positions = torch.argsort((~queries).int(), dim=1, stable=True)
    chunks = []
    while by_count:
        most = counts[by_count[0]]
        group = by_count[: max(1, rows_at_once // most)]
        by_count = by_count[len(group) :]
        sequences = torch.tensor(group, device=device)
        valid = torch.arange(most, device=device) < torch.tensor([counts[s] for s in group], device=device)[:, None]
        rows = positions[sequences, :most]
        rows = torch.where(valid, rows, rows[:, :1])  # filling repeats a real row, so that no row is all masked
        n_keys = max(ends[s] for s in group)
        at_once = max(1, rows_at_once // len(group))
        for start in range(0, most, at_once):
            part = slice(start, start + at_once)
            chunks.append(_Chunk(sequences, rows[:, part], valid[:, part].float(), starts[sequences], n_keys))
    return chunks


class _Reader:
    """Reads one layer's queries and keys while the model's own attention function does its work."""

    def __init__(
        self,
        config: Any,
        layer: int,
        heads: list[int],
        columns: list[int],
        chunks: list[_Chunk],
        out: Tensor,
        watch: Watch | None,
    ):
        self.config = config
        self.layer = layer
        self.heads = heads
        self.columns = columns
        self.chunks = chunks
        self.out = out
        self.watch = watch
        self.done = False

    def __call__(self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
        result = _model_function(module, self.config)(module, query, key, value, mask, **kwargs)
        with torch.autocast(query.device.type, enabled=False):
            self._read(module, query, key, value, mask, result[0], kwargs)
        return result

    def _read(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Any,
        output: Any,
        kwargs: dict[str, Any],
    ) -> None:
        n_sequences, n_heads, n_tokens, size = query.shape
        if key.shape[2] != n_tokens or n_heads % key.shape[1] or key.shape[3] != size:
            raise self._unreadable(f"has queries {tuple(query.shape)} and keys {tuple(key.shape)}")
        foreign = [name for name, given in kwargs.items() if isinstance(given, Tensor) and name not in _HARMLESS]
        if foreign:
            what = "has attention sinks" if foreign[0] == "s_aux" else "takes another tensor"
            raise self._unreadable(f"{what} (`{foreign[0]}`)")
        causal = kwargs.get("is_causal")
        if not (getattr(module, "is_causal", True) if causal is None else causal):
            raise self._unreadable("is not causal")
        if max(self.heads) >= n_heads:
            raise AttnPOError(f"layer {self.layer} has no head {max(self.heads)}: give heads 0 to {n_heads - 1}")
        heads = torch.tensor(self.heads, device=query.device)
        kv_heads = heads // (n_heads // key.shape[1])

        def logits(chunk: _Chunk) -> Tensor:
            batch = chunk.sequences[:, None]
            return _logits(
                query[batch[..., None], heads[:, None], chunk.rows[:, None]],
                key[batch, kv_heads, : chunk.n_keys],
                kwargs.get("scaling"),
            )

        def weights(chunk: _Chunk) -> Tensor:
            bias = self._bias(mask, chunk, heads, kwargs.get("sliding_window"))
            return _attention_rows(logits(chunk), bias, kwargs.get("softcap"))

        received = torch.zeros(n_sequences, len(self.heads), n_tokens, device=query.device)
        for chunk in self.chunks:
            rows = weights(chunk)
            received[chunk.sequences, :, : chunk.n_keys] += (chunk.valid[:, None, None] @ rows)[:, :, 0]
            if self.watch is not None:
                self.watch(chunk.sequences, chunk.rows, self.columns, rows)
        self.out[:, self.columns] = received
        self.done = True
        if self.chunks:
            # From the first chunk, which holds the sequences with most queries.
            first = self.chunks[0]
            sample = _Chunk(
                first.sequences[:8], first.rows[:8, -1:], first.valid[:8, -1:], first.starts[:8], first.n_keys
            )
            batch = sample.sequences[:, None]
            ours = weights(sample) @ value[batch, kv_heads, : sample.n_keys].float()
            if output.shape[:3] != (n_sequences, n_tokens, n_heads):
                raise self._unreadable(f"returns {tuple(output.shape)}")
            theirs = output[batch[..., None], sample.rows[:, None], heads[:, None]].float()
            distance = _relative_distance(ours, theirs)
            rounds = _is_half(output.dtype) and self.config._attn_implementation == "eager"
            largest = float(logits(sample).abs().max()) if rounds else 0.0
            if distance > _allowed(output.dtype, largest):  # NaN is reported at the end
                raise self._unreadable(f"is not a plain softmax (output off by {distance:.2g})")

    @staticmethod
    def _bias(mask: Any, chunk: _Chunk, heads: Tensor, window: int | None) -> Tensor:
        """What the rows may see, (b, 1 or h, c, n_keys): the model's mask where it has one, else causal."""
        if isinstance(mask, Tensor) and mask.ndim == 4:
            batch = chunk.sequences if mask.shape[0] > 1 else torch.zeros_like(chunk.sequences)
            head = heads if mask.shape[1] > 1 else heads.new_zeros(1)
            # Basic slicing first is a view, so that only the chunk's rows are copied.
            return mask[..., : chunk.n_keys][batch[:, None, None], head[:, None], chunk.rows[:, None]]
        keys = torch.arange(chunk.n_keys, device=chunk.rows.device)
        behind = chunk.rows[:, None, :, None] - keys
        visible = (behind >= 0) & (keys >= chunk.starts[:, None, None, None])
        return visible & (behind < window) if window else visible

    def _unreadable(self, what: str) -> AttnPOError:
        return AttnPOError(
            f"attention of layer {self.layer} ({type(self.config).__name__}) {what}: "
            "AttnPO reads causal softmax attention only, choose another model or attn_implementation"
        )


def _logits(query: Tensor, key: Tensor, scaling: float | None) -> Tensor:
    """Logits (b, h, c, n) in float32 of query (b, h, c, d) and key (b, h, n, d)."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return (query.float() * scaling) @ key.float().transpose(2, 3)


def _attention_rows(logits: Tensor, bias: Tensor, softcap: float | None) -> Tensor:
    """Softmax rows of logits (b, h, c, n), which are overwritten.

    bias: (b, 1 or h, c, n), bool (True is visible) or additive.
    """
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    logits = logits.masked_fill_(~bias, -torch.inf) if bias.dtype == torch.bool else logits.add_(bias)
    return torch.softmax(logits, -1)


def _is_half(dtype: torch.dtype) -> bool:
    return dtype not in (torch.float32, torch.float64)


def _allowed(dtype: torch.dtype, largest_logit: float) -> float:
    """The relative distance that rounding may cause between our attention output and the model's.

    Args:
        dtype: of the model's output.
        largest_logit: of those that the model rounds to `dtype`; 0 if it rounds none. A weight is then off by up to
            `eps` of its logit, and the output, in which errors cancel, by 1/28 of that where we measured it: 1/8 is
            allowed.
    """
    if not _is_half(dtype):
        return _TOLERANCE
    return _HALF_TOLERANCE + torch.finfo(dtype).eps / 8 * largest_logit


def _relative_distance(ours: Tensor, theirs: Tensor) -> float:
    """Relative L2 distance of our attention output from the model's."""
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-6))


class _ReadingConfig:
    """A layer's config with the reading attention function in place of the model's."""

    _attn_implementation = _CAPTURE

    def __init__(self, reader: _Reader):
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader.config, name)


def _read_attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any) -> Any:
    return module.config._reader(module, query, key, value, attention_mask, **kwargs)


# Entered once and for good: nothing uses it but a `_ReadingConfig`.
AttentionInterface.register(_CAPTURE, _read_attention)


def _model_function(module: Any, config: Any) -> Callable[..., Any]:
    """The attention function that the module would have called; eager ones live in the model's own file."""
    names = inspect.unwrap(type(module).forward).__globals__
    interface = names.get("ALL_ATTENTION_FUNCTIONS") or AttentionInterface()
    return interface.get_interface(config._attn_implementation, names.get("eager_attention_forward"))


@contextmanager
def _reading(
    decoder: Any,
    layers: dict[int, list[tuple[int, int]]],
    chunks: list[_Chunk],
    out: Tensor,
    watch: Watch | None = None,
) -> Iterator[None]:
    """Read the wanted layers during one forward pass into `out` (B, H, T)."""
    readers: list[tuple[Any, _Reader]] = []
    try:
        for number, wanted in layers.items():
            attention = decoder.layers[number].self_attn
            heads, columns = (list(column) for column in zip(*wanted, strict=True))
            reader = _Reader(attention.config, number, heads, columns, chunks, out, watch)
            readers.append((attention, reader))
            attention.config = _ReadingConfig(reader)
        yield
    finally:
        for attention, reader in readers:
            attention.config = reader.config
    for attention, reader in readers:
        if not reader.done:
            raise AttnPOError(
                f"layer {reader.layer} ({type(attention).__name__}) does not call the transformers attention "
                "interface: choose a model that does"
            )


@contextmanager
def _scoring_mode(model: nn.Module, decoder: Any, n_layers: int | None) -> Iterator[None]:
    """Evaluation mode and, unless None, only the first `n_layers` layers; both undone at the end."""
    training = [module for module in model.modules() if module.training]
    depth = decoder.config.num_hidden_layers
    try:
        model.eval()
        if n_layers is not None:
            decoder.config.num_hidden_layers = n_layers
        yield
    finally:
        decoder.config.num_hidden_layers = depth
        for module in training:
            module.training = True


def _unwrap(model: Any) -> Any:
    """The transformers model inside PEFT, torch.compile, DDP, FSDP and DeepSpeed wrappers."""
    while True:
        if hasattr(model, "get_base_model"):
            if model.active_peft_config.is_prompt_learning:
                raise AttnPOError("prompt-learning PEFT adds tokens that have no place in input_ids: use LoRA")
            model = model.get_base_model()
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif isinstance(getattr(model, "module", None), nn.Module):
            model = model.module
        else:
            return model


def _decoder(model: Any) -> Any:
    """The stack of decoder layers, without the language-model head."""
    decoder: Any = model.get_decoder() if hasattr(model, "get_decoder") else None
    if not hasattr(decoder, "layers") or not any(hasattr(layer, "self_attn") for layer in decoder.layers):
        raise AttnPOError(
            f"{type(model).__name__} has no decoder layers with `self_attn`: give a transformers causal LM"
        )
    return decoder


def _one_logit(model: nn.Module) -> dict[str, int]:
    """Keep a language-model head, where there is one, to a single position."""
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(_unwrap(model).forward).parameters else {}


def _heads_by_layer(decoder: Any, heads: Sequence[Head]) -> dict[int, list[tuple[int, int]]]:
    """{layer: [(head, its place in `heads`), ...]}; raises AttnPOError for what the model lacks."""
    if not heads:
        raise AttnPOError("no heads given: give (layer, head) pairs")
    n_layers, n_heads = len(decoder.layers), decoder.config.num_attention_heads
    layers: dict[int, list[tuple[int, int]]] = {}
    for place, (layer, head) in enumerate(heads):
        if not (0 <= layer < n_layers and 0 <= head < n_heads):
            raise AttnPOError(
                f"the model has no (layer, head) ({layer}, {head}): give layers 0 to {n_layers - 1} "
                f"and heads 0 to {n_heads - 1}"
            )
        if not hasattr(decoder.layers[layer], "self_attn"):
            with_attention = [i for i, module in enumerate(decoder.layers) if hasattr(module, "self_attn")]
            raise AttnPOError(f"layer {layer} has no softmax attention: give one of the layers {with_attention}")
        layers.setdefault(layer, []).append((head, place))
    return layers


def _check_finite(received: Tensor, heads: Sequence[Head]) -> None:
    if not torch.isfinite(received).all():
        bad = heads[int((~torch.isfinite(received)).any(2).any(0).nonzero()[0])]
        raise AttnPOError(f"attention of (layer, head) {bad} is not finite: check the model's weights and dtype")


def _check_inputs(
    input_ids: Tensor, attention_mask: Tensor, query_mask: Tensor, chunk_rows: int, batch_size: int | None
) -> None:
    if input_ids.ndim != 2 or not input_ids.shape == attention_mask.shape == query_mask.shape:
        raise AttnPOError(
            f"input_ids {tuple(input_ids.shape)}, attention_mask {tuple(attention_mask.shape)} and "
            f"query_mask {tuple(query_mask.shape)} differ: give all three as (B, T)"
        )
    if chunk_rows < 1 or (batch_size is not None and batch_size < 1):
        raise AttnPOError(f"chunk_rows {chunk_rows} and batch_size {batch_size}: give at least 1")
    if n_padding := int((query_mask.bool() & ~attention_mask.bool()).sum()):
        raise AttnPOError(f"query_mask marks {n_padding} padding tokens: mark tokens with attention_mask 1 only")
