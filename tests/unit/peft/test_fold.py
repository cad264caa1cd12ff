"""The folded kernel against interpolate, convolve, interpolate."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from semseg_automl.peft.experts import expert
from semseg_automl.peft.fold import (
    conv_valid,
    fold_kernels,
    fold_matrices,
    mix_kernels,
    patches,
    replicate_pad,
    scale_matrix,
)
from semseg_automl.peft.fold_gelu import folded_expert, is_exact
from semseg_automl.peft.windows import halo_windows, merge_windows, partition_windows

R = 3


def written_out(z: Tensor, kernel: Tensor, bias: Tensor, scale: int) -> Tensor:
    """down_s(conv3x3(up_s(z))) on (N, h, w, r), bilinear, replicate padding of the upscaled map."""
    up = F.interpolate(z.permute(0, 3, 1, 2), scale_factor=float(scale), mode="bilinear", align_corners=False)
    y = F.conv2d(F.pad(up, (1, 1, 1, 1), mode="replicate"), kernel, bias)
    return F.interpolate(y, size=z.shape[1:3], mode="bilinear", align_corners=False).permute(0, 2, 3, 1)


def double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("scale", range(1, 9))
@pytest.mark.parametrize("shape", [(5, 7), (1, 6), (2, 1), (1, 1)])
def test_fold_is_exact_everywhere(scale: int, shape: tuple[int, int]) -> None:
    z, kernel, bias = (double(2, *shape, R).requires_grad_(), double(R, R, 3, 3), double(R))
    kernel.requires_grad_()
    expected = written_out(z, kernel, bias, scale)
    folded = fold_kernels(kernel.unsqueeze(0), fold_matrices([scale]))
    got = conv_valid(replicate_pad(z), folded.expand(2, -1, -1), bias.expand(2, -1))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    probe = double(*expected.shape)
    wanted = torch.autograd.grad((expected * probe).sum(), (z, kernel))
    for mine, theirs in zip(torch.autograd.grad((got * probe).sum(), (z, kernel)), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


def test_scale_one_is_the_identity_and_columns_sum_to_one() -> None:
    assert torch.equal(scale_matrix(1), torch.eye(3, dtype=torch.float64))
    for scale in range(1, 17):
        torch.testing.assert_close(scale_matrix(scale).sum(0), torch.ones(3, dtype=torch.float64))


def test_condition_number_of_scale_eight() -> None:
    assert float(torch.linalg.cond(scale_matrix(8))) == pytest.approx(38.8, abs=0.05)


@pytest.mark.parametrize("compat", [False, True], ids=["bilinear", "compat"])
@pytest.mark.parametrize("scale", range(1, 10))
@pytest.mark.parametrize("shape", [(5, 7), (14, 14), (2, 1), (1, 1)])
def test_experts_with_a_gelu_equal_the_written_out_ones(
    scale: int, shape: tuple[int, int], compat: bool
) -> None:
    """Forward and every gradient, border included, at each scale that folds; compat's 1, 2 and 4 do not."""
    if not is_exact(scale, compat=compat):
        assert compat and scale in (1, 2, 4)
        return
    inputs = (double(2, *shape, R), double(R, R, 3, 3), double(R))
    z, kernel, bias = (t.requires_grad_() for t in inputs)
    expected = expert(z, kernel, bias, scale, compat=compat)
    got = folded_expert(z, kernel, bias, scale, compat=compat)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    probe = double(*expected.shape)
    wanted = torch.autograd.grad((expected * probe).sum(), (z, kernel, bias))
    for mine, theirs in zip(torch.autograd.grad((got * probe).sum(), (z, kernel, bias)), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


def test_scale_four_of_compat_differs_in_the_border_ring_alone() -> None:
    z, kernel, bias = double(1, 9, 8, R), double(R, R, 3, 3), double(R)
    written = expert(z, kernel, bias, 4, compat=True)
    difference = (folded_expert(z, kernel, bias, 4, compat=True) - written).abs().amax(-1)[0]
    assert difference[1:-1, 1:-1].max() < 1e-12
    ring = torch.cat([difference[0], difference[-1], difference[:, 0], difference[:, -1]])
    assert ring.min() > 1e-6


def test_the_mixed_kernel_and_its_gradients() -> None:
    """One function against folding and mixing step by step."""
    inputs = [double(2, 3, R, R, 3, 3), double(2, 3, R), double(4, 2, 5, 3)]
    kernels, bias, weights = (t.requires_grad_() for t in inputs)
    folds = fold_matrices((1, 2, 5))
    mixed, shift = mix_kernels(kernels, bias, weights, folds)
    identity = torch.zeros(9, R, R, dtype=torch.float64)
    identity[4] = torch.eye(R)
    folded = fold_kernels(kernels, folds).flatten(2)  # (G, E, 9*r*r)
    expected = torch.einsum("bgne,gek->bgnk", weights, folded).reshape(8, 5, 9 * R, R) + identity.view(
        9 * R, R
    )
    torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(shift, torch.einsum("bgne,ger->bgnr", weights, bias).reshape(8, 5, R))
    assert torch.autograd.gradcheck(lambda *t: mix_kernels(*t, folds), (kernels, bias, weights))


@pytest.mark.parametrize("side", [3, 5])
def test_patches_and_padding_have_their_adjoint(side: int) -> None:
    z = double(1, 2, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: patches(replicate_pad(z, side // 2), side), (z,))


def test_experts_with_a_gelu_in_lower_precision() -> None:
    z, kernel, bias = (t.float() for t in (double(2, 6, 6, R), double(R, R, 3, 3), double(R)))
    exact = expert(*(t.double() for t in (z, kernel, bias)), 6, compat=True)
    torch.testing.assert_close(
        folded_expert(z, kernel, bias, 6, compat=True), exact.float(), rtol=1e-5, atol=1e-5
    )
    rough = folded_expert(z.bfloat16(), kernel, bias, 6, compat=True)
    assert rough.dtype == torch.bfloat16 and (rough - exact).abs().mean() < 0.02 * exact.std()


def test_hand_written_gradients() -> None:
    z, kernels, bias = double(2, 3, 4, 2), double(2, 9 * 2, 3), double(2, 3)
    inputs = tuple(t.requires_grad_() for t in (z, kernels, bias))
    assert torch.autograd.gradcheck(lambda z, k, b: conv_valid(replicate_pad(z), k, b), inputs)


def test_exporter_form_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    z, kernels, bias = double(2, 3, 4, 2), double(2, 18, 3), double(2, 3)
    fast = conv_valid(replicate_pad(z), kernels, bias)
    monkeypatch.setattr("semseg_automl.peft.fold._tracing", lambda: True)
    torch.testing.assert_close(conv_valid(replicate_pad(z), kernels, bias), fast, rtol=0, atol=1e-12)
    wide = patches(replicate_pad(z, 2), 5)
    monkeypatch.undo()
    assert torch.equal(patches(replicate_pad(z, 2), 5), wide)


def test_windows_round_trip_and_halo() -> None:
    z = double(2, 6, 9, R)
    windows = partition_windows(z, 3)
    assert windows.shape == (12, 3, 3, R)
    assert torch.equal(windows[4], z[0, 3:6, 3:6]) and torch.equal(merge_windows(windows, (6, 9)), z)
    halo = halo_windows(replicate_pad(z), 3)
    assert torch.equal(halo[:, 1:-1, 1:-1], windows) and torch.equal(halo[4, 0, 1:-1], z[0, 2, 3:6])
