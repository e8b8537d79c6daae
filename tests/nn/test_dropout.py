"""Dropout's pair against autograd, and its masks against the probabilities they are to have."""

import math

import pytest
import torch

from mlp_lightning.nn.dropout import Dropout, dropout_backward, dropout_forward

SIZES = (30, 50, 40, 10)


def test_the_pair_is_autograds(assert_oracle, generator):
    a, da = (torch.randn(6, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    mask = (torch.rand(6, 5, dtype=torch.float64, generator=generator) < 0.6) / 0.6
    leaf = a.clone().requires_grad_()
    out = leaf * mask
    out.backward(da)
    assert_oracle("forward", dropout_forward(a, mask), out.detach())
    assert_oracle("backward", dropout_backward(da.clone(), mask), leaf.grad)


def test_without_a_mask_nothing_is_done():
    a = torch.ones(2, 3)
    assert dropout_forward(a, None) is a
    assert dropout_backward(a, None) is a


def test_forward_keeps_its_input_and_backward_does_not_allocate():
    a, mask, memory = torch.ones(2, 3), torch.tensor([[0.0, 2.0, 2.0]] * 2), torch.empty(2, 3)
    assert dropout_forward(a, mask, memory) is memory
    assert torch.equal(a, torch.ones(2, 3))
    assert dropout_backward(a, mask) is a


def test_masks_have_the_widths_of_the_layers_inputs():
    masks = Dropout(SIZES, 0.3, 0.1, 0).masks(0, 7)
    assert [tuple(mask.shape) for mask in masks] == [(7, 30), (7, 50), (7, 40)]


@pytest.mark.parametrize(("p", "input_p"), [(0.3, 0.0), (0.0, 0.2), (0.5, 0.5)])
def test_zeros_and_their_scale(p, input_p):
    masks = Dropout(SIZES, p, input_p, 0).masks(0, 4000)
    for k, (mask, q) in enumerate(zip(masks, [input_p, p, p], strict=True)):
        if not q:
            assert mask is None, k
            continue
        low, high = mask.unique().tolist()
        assert low == 0
        assert high == pytest.approx(1 / (1 - q), abs=2e-4)
        # Inverted dropout leaves the mean as it is: six standard errors are allowed.
        assert abs(float(mask.mean()) - 1) < 6 * math.sqrt(q / (1 - q) / mask.numel())


def test_no_mask_of_a_step_repeats_another():
    dropout = Dropout((20, 20, 20), 0.5, 0.5, 0)
    seen = [mask for step in range(3) for mask in dropout.masks(step, 10)]
    seen += Dropout((20, 20, 20), 0.5, 0.5, 1).masks(0, 10)
    assert len({tuple(mask.flatten().tolist()) for mask in seen}) == len(seen)


def test_masks_of_shares_are_those_of_the_minibatch():
    dropout = Dropout(SIZES, 0.3, 0.1, 0)
    whole = dropout.masks(5, 9)
    shares = [dropout.masks(5, rows, first, 9) for first, rows in ((0, 4), (4, 0), (4, 5))]
    for k, mask in enumerate(whole):
        assert torch.equal(torch.cat([share[k] for share in shares]), mask)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_of_the_products(dtype):
    masks = Dropout(SIZES, 0.3, 0.1, 0, dtype=dtype).masks(0, 7)
    for mask, exact in zip(masks, Dropout(SIZES, 0.3, 0.1, 0, dtype=torch.float64).masks(0, 7), strict=True):
        assert mask.dtype == dtype
        torch.testing.assert_close(mask.double(), exact, rtol=torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize(("p", "input_p", "got"), [(1.0, 0.0, "1.0"), (0.0, -0.5, "-0.5"), (math.nan, 0.0, "nan")])
def test_probabilities_out_of_range(p, input_p, got):
    with pytest.raises(ValueError, match=rf"^p must be in \[0, 1\), got {got}$"):
        Dropout(SIZES, p, input_p, 0)
