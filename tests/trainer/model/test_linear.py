import pytest
import torch
from torch import nn

from trainer.model.linear import FusedLinear, Linear, join_parts, matmul, parts_of


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN"
)
@pytest.mark.parametrize(("width", "out"), [(96, 256), (256, 96)])
def test_onednn_gives_the_same_result_and_gradients_as_mkl(width: int, out: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 256, width, generator=generator)
    weight, upstream = torch.randn(out, width), torch.randn(2, 256, out)
    results = []
    for fast_cpu in (False, True):
        a, b = x.clone().requires_grad_(), weight.clone().requires_grad_()
        y = matmul(a, b, fast_cpu)
        name = type(y.grad_fn).__name__
        assert ("OneDnn" in name) == fast_cpu
        y.backward(upstream)
        results.append((y.detach(), a.grad, b.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-3)


def test_a_small_matmul_does_not_use_onednn() -> None:
    y = matmul(torch.randn(1, 4, 8, requires_grad=True), torch.randn(8, 8), fast_cpu=True)
    assert "OneDnn" not in type(y.grad_fn).__name__


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ab = FusedLinear(3, {"a": 2, "b": 4})
        self.c = Linear(3, 5)
        self.register_load_state_dict_pre_hook(join_parts)


def test_parts_of_a_fused_matrix_keep_their_names() -> None:
    pair = Pair()
    nn.init.normal_(pair.ab.weight)
    state = pair.state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "a.weight": (2, 3),
        "b.weight": (4, 3),
        "c.weight": (5, 3),
    }
    state["b.weight"].fill_(7.0)  # a view: reading a checkpoint into it is loading
    assert (pair.ab.weight[2:] == 7).all()
    assert not (pair.ab.weight[:2] == 7).any()
    assert parts_of(pair)["b.weight"] == ("ab.weight", slice(2, 6))
    assert parts_of(pair)["c.weight"] == ("c.weight", slice(None))


def test_a_state_of_separate_matrices_is_loaded() -> None:
    pair = Pair()
    state = {
        "a.weight": torch.full((2, 3), 1.0),
        "b.weight": torch.full((4, 3), 2.0),
        "c.weight": torch.full((5, 3), 3.0),
    }
    pair.load_state_dict(state)
    assert pair.ab.weight.sum(dim=1).tolist() == [3, 3, 6, 6, 6, 6]
    assert len(state) == 3
    with pytest.raises(RuntimeError, match=r"ab\.weight"):
        pair.load_state_dict({"a.weight": state["a.weight"], "c.weight": state["c.weight"]})
