"""The folded kernel against interpolate, convolve, interpolate."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from semseg_automl.peft.fold import conv_valid, fold_kernels, fold_matrices, replicate_pad, scale_matrix
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


def test_hand_written_gradients() -> None:
    z, kernels, bias = double(2, 3, 4, 2), double(2, 9 * 2, 3), double(2, 3)
    inputs = tuple(t.requires_grad_() for t in (z, kernels, bias))
    assert torch.autograd.gradcheck(lambda z, k, b: conv_valid(replicate_pad(z), k, b), inputs)


def test_exporter_form_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    z, kernels, bias = double(2, 3, 4, 2), double(2, 18, 3), double(2, 3)
    fast = conv_valid(replicate_pad(z), kernels, bias)
    monkeypatch.setattr("semseg_automl.peft.fold._tracing", lambda: True)
    torch.testing.assert_close(conv_valid(replicate_pad(z), kernels, bias), fast, rtol=0, atol=1e-12)


def test_windows_round_trip_and_halo() -> None:
    z = double(2, 6, 9, R)
    windows = partition_windows(z, 3)
    assert windows.shape == (12, 3, 3, R)
    assert torch.equal(windows[4], z[0, 3:6, 3:6]) and torch.equal(merge_windows(windows, (6, 9)), z)
    halo = halo_windows(replicate_pad(z), 3)
    assert torch.equal(halo[:, 1:-1, 1:-1], windows) and torch.equal(halo[4, 0, 1:-1], z[0, 2, 3:6])
