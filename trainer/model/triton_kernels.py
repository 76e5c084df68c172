"""The Triton kernels of pointwise.py and adamw_update.py. Imported at the first use, on a GPU only.

Arithmetic is in float32, whatever the tensors' dtype.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainer.config import OptimConfig

NORM_TILE = 2048
"""Numbers that a program of a norm has in registers at a time: some rows, at least one."""

NORM_WARP = 512
"""Of these, the share of a warp: 16 for each thread."""

NORM_WARPS = 16
"""Warps of a norm's backward pass on each multiprocessor. Each program sums its part of the
weight's gradient over many rows."""

SUM_ROWS = 256
"""Rows of these parts that are read at a time to be summed."""

BLOCK = 1024
"""Elements of a program of SwiGLU and of AdamW: eight for each thread, a load of 16 bytes in bf16.
"""


@triton.jit
def _swiglu(gate_up, hidden, count, width: tl.constexpr, block: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = index < count
    at = index // width * (2 * width) + index % width
    gate = tl.load(gate_up + at, mask=inside).to(tl.float32)
    up = tl.load(gate_up + at + width, mask=inside).to(tl.float32)
    tl.store(hidden + index, gate * tl.sigmoid(gate) * up, mask=inside)


@triton.jit
def _swiglu_backward(dhidden, gate_up, dgate_up, count, width: tl.constexpr, block: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = index < count
    at = index // width * (2 * width) + index % width
    dh = tl.load(dhidden + index, mask=inside).to(tl.float32)
    gate = tl.load(gate_up + at, mask=inside).to(tl.float32)
    up = tl.load(gate_up + at + width, mask=inside).to(tl.float32)
    slope = tl.sigmoid(gate)
    tl.store(dgate_up + at, dh * up * slope * (1 + gate * (1 - slope)), mask=inside)
    tl.store(dgate_up + at + width, dh * gate * slope, mask=inside)


@triton.jit
def _turn_heads(
    source,
    stride,
    target,
    cosine,
    sine,
    column,
    inside_columns,
    heads: tl.constexpr,
    padded: tl.constexpr,
    half: tl.constexpr,
):
    """Rotate all heads of one token, (heads, 2 * half)."""
    head = tl.arange(0, padded)[:, None]
    inside = (head < heads) & inside_columns
    read = source + head * stride + column
    first = tl.load(read, mask=inside).to(tl.float32)
    second = tl.load(read + half, mask=inside).to(tl.float32)
    write = target + head * (2 * half) + column
    tl.store(write, first * cosine - second * sine, mask=inside)
    tl.store(write + half, second * cosine + first * sine, mask=inside)


@triton.jit
def _rotary(
    qkv,
    rotated,
    cos,
    sin,
    length,
    token_stride,
    heads: tl.constexpr,
    padded: tl.constexpr,
    half: tl.constexpr,
    padded_half: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, padded_half)[None, :]
    inside = column < half
    # The second half of each row: the first half of sin is negated.
    angle = (token % length) * (2 * half) + half + column
    cosine, sine = tl.load(cos + angle, mask=inside), tl.load(sin + angle, mask=inside)
    read, write = qkv + token * token_stride, rotated + token * (heads * 2 * half)
    _turn_heads(read, 2 * half, write, cosine, sine, column, inside, heads, padded, half)


@triton.jit
def _rotary_backward(
    dq,
    dk,
    dv,
    dqkv,
    cos,
    sin,
    length,
    q_batch,
    q_token,
    q_head,
    k_batch,
    k_token,
    k_head,
    v_batch,
    v_token,
    v_head,
    heads: tl.constexpr,
    padded: tl.constexpr,
    kv_heads: tl.constexpr,
    kv_padded: tl.constexpr,
    half: tl.constexpr,
    padded_half: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    batch, token = row // length, row % length
    column = tl.arange(0, padded_half)[None, :]
    inside = column < half
    angle = token * (2 * half) + half + column
    cosine, sine = tl.load(cos + angle, mask=inside), -tl.load(sin + angle, mask=inside)
    write = dqkv + row * ((heads + 2 * kv_heads) * 2 * half)
    q = dq + batch * q_batch + token * q_token
    _turn_heads(q, q_head, write, cosine, sine, column, inside, heads, padded, half)
    write += heads * 2 * half
    k = dk + batch * k_batch + token * k_token
    _turn_heads(k, k_head, write, cosine, sine, column, inside, kv_heads, kv_padded, half)
    write += kv_heads * 2 * half
    head = tl.arange(0, kv_padded)[:, None]
    inside = (head < kv_heads) & inside
    read = dv + batch * v_batch + token * v_token + head * v_head + column
    to = write + head * (2 * half) + column
    tl.store(to, tl.load(read, mask=inside), mask=inside)
    tl.store(to + half, tl.load(read + half, mask=inside), mask=inside)


@triton.jit
def _add_norm(
    x,
    branch,
    weight,
    total,
    normed,
    scale,
    rows,
    width,
    epsilon,
    tile: tl.constexpr,
    padded: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)[:, None]
    column = tl.arange(0, padded)[None, :]
    inside = (row < rows) & (column < width)
    at = row * width + column
    branch_there = tl.load(branch + at, mask=inside, other=0).to(tl.float32)
    summed = tl.load(x + at, mask=inside, other=0).to(tl.float32) + branch_there
    rounded = summed.to(total.dtype.element_ty)
    tl.store(total + at, rounded, mask=inside)
    values = rounded.to(tl.float32)
    factor = tl.rsqrt(tl.sum(values * values, axis=1, keep_dims=True) / width + epsilon)
    tl.store(scale + row, factor, mask=row < rows)
    gain = tl.load(weight + column, mask=column < width, other=0)
    tl.store(normed + at, values * factor * gain, mask=inside)


@triton.jit
def _add_norm_backward(
    dtotal,
    dnormed,
    total,
    scale,
    weight,
    dx,
    dbranch,
    parts,
    rows,
    width,
    count,
    tile: tl.constexpr,
    padded: tl.constexpr,
    is_one: tl.constexpr,
    has_dtotal: tl.constexpr,
):
    """Each program takes tiles of rows, `count` programs apart, and sums dweight over them."""
    column = tl.arange(0, padded)[None, :]
    gain = tl.load(weight + column, mask=column < width, other=0)
    summed = tl.zeros((tile, padded), tl.float32)
    for start in range(tl.program_id(0) * tile, rows, count * tile):
        row = (start + tl.arange(0, tile)).to(tl.int64)
        # Of one dimension: of two, each thread would load a factor as often as it has columns.
        factor = tl.load(scale + row, mask=row < rows, other=0)[:, None]
        inside = (row < rows)[:, None] & (column < width)
        at = row[:, None] * width + column
        unit = tl.load(total + at, mask=inside, other=0).to(tl.float32) * factor
        dy = tl.load(dnormed + at, mask=inside, other=0).to(tl.float32)
        summed += dy * unit
        dy *= gain
        along = tl.sum(dy * unit, axis=1, keep_dims=True) / width
        result = (dy - unit * along) * factor
        if has_dtotal:
            result += tl.load(dtotal + at, mask=inside, other=0).to(tl.float32)
        tl.store(dx + at, result, mask=inside)
        if not is_one:
            tl.store(dbranch + at, result, mask=inside)
    at = parts + tl.program_id(0) * width + tl.arange(0, padded)
    tl.store(at, tl.sum(summed, axis=0), mask=tl.arange(0, padded) < width)


@triton.jit
def _sum_parts(parts, total, count, width, rows: tl.constexpr, columns: tl.constexpr):
    """Sum (count, width) over the rows, `columns` columns per program, `rows` at a time."""
    column = tl.program_id(0) * columns + tl.arange(0, columns)[None, :]
    summed = tl.zeros((rows, columns), tl.float32)
    for start in range(0, count, rows):
        row = start + tl.arange(0, rows)[:, None]
        inside = (row < count) & (column < width)
        summed += tl.load(parts + row * width + column, mask=inside, other=0)
    at = tl.program_id(0) * columns + tl.arange(0, columns)
    tl.store(total + at, tl.sum(summed, axis=0), mask=at < width)


@triton.jit
def _embed(table, tokens, x, width, padded: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, padded)
    inside = column < width
    row = table + tl.load(tokens + token) * width
    tl.store(x + token * width + column, tl.load(row + column, mask=inside), mask=inside)


@triton.jit
def _embed_backward(dx, tokens, dtable, width, padded: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, padded)
    inside = column < width
    gradient = tl.load(dx + token * width + column, mask=inside).to(tl.float32)
    row = dtable + tl.load(tokens + token) * width
    tl.atomic_add(row + column, gradient, mask=inside, sem="relaxed")


@triton.jit
def _chunk_gradient(
    logits,
    targets,
    log_probabilities,
    stride,
    vocabulary,
    padded_vocabulary,
    count,
    block: tl.constexpr,
):
    """Replace a row of logits by its gradient."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    target = tl.load(targets + row)
    largest = tl.full((), -float("inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    at_target = tl.full((), 0.0, tl.float32)
    for start in range(0, vocabulary, block):
        column = start + tl.arange(0, block)
        values = tl.load(logits + column, mask=column < padded_vocabulary).to(tl.float32)
        values = tl.where(column < vocabulary, values, -float("inf"))
        highest = tl.maximum(largest, tl.max(values, axis=0))
        total = total * tl.exp(largest - highest) + tl.sum(tl.exp(values - highest), axis=0)
        largest = highest
        # Summed, not loaded: another warp may already have replaced it by its gradient.
        at_target += tl.sum(tl.where(column == target, values, 0.0), axis=0)
    log_total = largest + tl.log(total)
    tl.store(log_probabilities + row, at_target - log_total)
    for start in range(0, padded_vocabulary, block):
        column = start + tl.arange(0, block)
        values = tl.load(logits + column, mask=column < padded_vocabulary).to(tl.float32)
        gradient = tl.exp(values - log_total) - tl.where(column == target, 1.0, 0.0)
        gradient = tl.where(column < vocabulary, gradient / count, 0.0)
        tl.store(logits + column, gradient, mask=column < padded_vocabulary)


@triton.jit
def _adamw(
    weight,
    gradient,
    mean,
    square,
    copy,
    factors,
    count,
    keep1,
    take1,
    keep2,
    take2,
    epsilon,
    decay,
    block: tl.constexpr,
):
    rate, scale = tl.load(factors), tl.load(factors + 1)
    bias1, bias2 = tl.load(factors + 2), tl.load(factors + 3)
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = index < count
    g = tl.load(gradient + index, mask=inside).to(tl.float32) / scale
    m = keep1 * tl.load(mean + index, mask=inside) + take1 * g
    v = keep2 * tl.load(square + index, mask=inside) + take2 * g * g
    w = tl.load(weight + index, mask=inside)
    w -= rate * decay * w
    w -= rate / bias1 * m / (tl.sqrt(v) / tl.sqrt(bias2) + epsilon)
    tl.store(mean + index, m, mask=inside)
    tl.store(square + index, v, mask=inside)
    tl.store(weight + index, w, mask=inside)
    tl.store(copy + index, w, mask=inside)


def swiglu(gate_up: Tensor) -> Tensor:
    """Return (..., F) of (..., 2F)."""
    gate_up = gate_up.contiguous()
    width = gate_up.shape[-1] // 2
    hidden = gate_up.new_empty((*gate_up.shape[:-1], width))
    count = hidden.numel()
    _swiglu[(triton.cdiv(count, BLOCK),)](gate_up, hidden, count, width, BLOCK)
    return hidden


def swiglu_backward(dhidden: Tensor, gate_up: Tensor) -> Tensor:
    """Return the gradient of `gate_up`."""
    dhidden, gate_up = dhidden.contiguous(), gate_up.contiguous()
    dgate_up = torch.empty_like(gate_up)
    count = dhidden.numel()
    grid = (triton.cdiv(count, BLOCK),)
    _swiglu_backward[grid](dhidden, gate_up, dgate_up, count, gate_up.shape[-1] // 2, BLOCK)
    return dgate_up


def rotary(qkv: Tensor, cos: Tensor, sin: Tensor, kv_heads: int) -> Tensor:
    """Return rotated queries and keys (B, T, H + K, E) of (B, T, H + 2K, E)."""
    qkv = qkv.contiguous()
    batch, length, heads, width = qkv.shape
    rotated = qkv.new_empty((batch, length, heads - kv_heads, width))
    half = width // 2
    _rotary[(batch * length,)](
        qkv,
        rotated,
        cos,
        sin,
        length,
        qkv.stride(1),
        heads - kv_heads,
        triton.next_power_of_2(heads - kv_heads),
        half,
        triton.next_power_of_2(half),
    )
    return rotated


def rotary_backward(dq: Tensor, dk: Tensor, dv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return the gradient (B, T, H + 2K, E) of what was rotated."""
    dq, dk, dv = (x if x.stride(-1) == 1 else x.contiguous() for x in (dq, dk, dv))
    batch, length, heads, width = dq.shape
    kv_heads, half = dk.shape[2], width // 2
    dqkv = dq.new_empty((batch, length, heads + 2 * kv_heads, width))
    _rotary_backward[(batch * length,)](
        dq,
        dk,
        dv,
        dqkv,
        cos,
        sin,
        length,
        *dq.stride()[:3],
        *dk.stride()[:3],
        *dv.stride()[:3],
        heads,
        triton.next_power_of_2(heads),
        kv_heads,
        triton.next_power_of_2(kv_heads),
        half,
        triton.next_power_of_2(half),
    )
    return dqkv


def add_norm(
    x: Tensor, branch: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum, the normalised sum and the factors of its rows."""
    x, branch = x.contiguous(), branch.contiguous()
    width = x.shape[-1]
    rows = x.numel() // width
    total, normed = torch.empty_like(x), torch.empty_like(x, dtype=dtype)
    scale = x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
    tile, padded, warps = _tile(width)
    tensors = (x, branch, weight, total, normed, scale)
    grid = (triton.cdiv(rows, tile),)
    _add_norm[grid](*tensors, rows, width, epsilon, tile, padded, num_warps=warps)
    return total, normed, scale


def add_norm_backward(
    dtotal: Tensor | None,
    dnormed: Tensor,
    total: Tensor,
    scale: Tensor,
    weight: Tensor,
    branch_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of both summands, and of the weight.

    The second is empty if it is the first one.
    """
    dnormed = dnormed.contiguous()
    has_dtotal = dtotal is not None
    dtotal = dnormed if dtotal is None else dtotal.contiguous()
    width = total.shape[-1]
    rows = total.numel() // width
    tile, padded, warps = _tile(width)
    programs = max(1, NORM_WARPS // warps) * _processors(total.device)
    count = min(triton.cdiv(rows, tile), programs)
    is_one = total.dtype == branch_dtype
    dx, dweight = torch.empty_like(total), torch.empty_like(weight)
    dbranch = total.new_empty(0 if is_one else total.shape, dtype=branch_dtype)
    parts = weight.new_empty((count, width))
    _add_norm_backward[(count,)](
        dtotal,
        dnormed,
        total,
        scale,
        weight,
        dx,
        dbranch,
        parts,
        rows,
        width,
        count,
        tile,
        padded,
        is_one,
        has_dtotal,
        num_warps=warps,
    )
    columns = 16
    grid = (triton.cdiv(width, columns),)
    _sum_parts[grid](parts, dweight, count, width, SUM_ROWS, columns, num_warps=8)
    return dx, dbranch, dweight


def embed(table: Tensor, tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the rows of a table (V, D) for token ids (...), (..., D) in `dtype`."""
    width = table.shape[1]
    tokens = tokens.contiguous()
    x = table.new_empty((*tokens.shape, width), dtype=dtype)
    _embed[(tokens.numel(),)](table, tokens, x, width, triton.next_power_of_2(width))
    return x


def embed_backward(dx: Tensor, tokens: Tensor, vocabulary: int) -> Tensor:
    """Return the gradient (V, D) of the table, fp32. It is summed in no fixed order."""
    dx, tokens = dx.contiguous(), tokens.contiguous()
    width = dx.shape[-1]
    dtable = dx.new_zeros((vocabulary, width), dtype=torch.float32)
    grid = (tokens.numel(),)
    _embed_backward[grid](dx, tokens, dtable, width, triton.next_power_of_2(width))
    return dtable


def chunk_gradient(
    logits_CV: Tensor, target_C1: Tensor, vocabulary: int, count: int
) -> tuple[Tensor, Tensor]:
    """Do what `loss.chunk_gradient` does; the gradient overwrites the logits."""
    assert logits_CV.stride(1) == 1
    rows, padded = logits_CV.shape
    logs = logits_CV.new_empty(rows, dtype=torch.float32)
    block = min(triton.next_power_of_2(padded), 4096)
    _chunk_gradient[(rows,)](
        logits_CV,
        target_C1.contiguous(),
        logs,
        logits_CV.stride(0),
        vocabulary,
        padded,
        count,
        block,
        num_warps=max(1, min(8, block // 512)),
    )
    return logs.sum(), logits_CV


def _tile(width: int) -> tuple[int, int, int]:
    """Return the rows of a tile, its columns, and the warps that share it."""
    padded = triton.next_power_of_2(width)
    rows = max(1, NORM_TILE // padded)
    return rows, padded, min(16, max(1, rows * padded // NORM_WARP))


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def adamw(
    weight: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    copy: Tensor,
    factors: Tensor,
    config: OptimConfig,
    decay: float,
) -> None:
    """Update a weight, its moments and its copy in place.

    `factors`: learning rate, divisor of the gradient, and 1 - beta^step for both moments, fp32.
    """
    tensors = (weight, gradient.contiguous(), mean, square, copy)
    count = weight.numel()
    betas = (config.beta1, 1 - config.beta1, config.beta2, 1 - config.beta2)
    grid = (triton.cdiv(count, BLOCK),)
    _adamw[grid](*tensors, factors, count, *betas, config.epsilon, decay, BLOCK)
