"""Gates and the balance loss against the written-out formulas."""

from __future__ import annotations

import math

import pytest
import torch

from semseg_automl.peft.gate import NoisyTopKGate, coefficient_of_variation_squared, smooth_load


def gate(mode: str, top_k: int = 1, experts: int = 4) -> NoisyTopKGate:
    made = NoisyTopKGate(1, 3, experts, top_k, mode, torch.Generator().manual_seed(0)).double()
    made.weight.data *= 100
    return made


def test_learned_gates_are_softmax_values_of_the_kept() -> None:
    g = gate("learned", top_k=2).eval()
    pooled = torch.randn(5, 1, 3, dtype=torch.float64)
    gates, loss = g(pooled)
    full = (pooled[:, 0] @ g.weight[0]).softmax(-1)
    assert loss is None and ((gates > 0).sum(-1) == 2).all()
    kept = gates[:, 0] > 0
    torch.testing.assert_close(gates[:, 0][kept], full[kept])
    assert (full[kept].view(5, 2).min(1).values >= full[~kept].view(5, 2).max(1).values).all()


def test_dense_keeps_all_and_compat_keeps_one_of_weight_one() -> None:
    pooled = torch.randn(5, 1, 3, dtype=torch.float64)
    dense = gate("dense").eval()
    torch.testing.assert_close(dense(pooled)[0][:, 0], (pooled[:, 0] @ dense.weight[0]).softmax(-1))
    gates = gate("compat").eval()(pooled)[0]
    assert ((gates == 1).sum(-1) == 1).all() and ((gates == 0).sum(-1) == 3).all()


def test_starts() -> None:
    fresh = NoisyTopKGate(1, 64, 64, 1, "learned", torch.Generator().manual_seed(0))
    assert float(fresh.weight.detach().std()) == pytest.approx(1e-2, rel=0.05)
    assert not NoisyTopKGate(1, 3, 4, 1, "compat", torch.Generator()).weight.any()
    assert NoisyTopKGate(1, 3, 4, 1, "dense", torch.Generator()).noise is None


def test_ties_are_broken_at_random_in_training_and_one_way_in_evaluation() -> None:
    g = gate("learned")
    g.weight.data.zero_()
    pooled = torch.zeros(400, 1, 3, dtype=torch.float64)
    torch.manual_seed(0)
    chosen = g(pooled)[0][:, 0].argmax(-1).bincount(minlength=4)
    assert (chosen > 60).all()
    assert len(g.eval()(pooled)[0][:, 0].argmax(-1).unique()) == 1


def test_smooth_load_is_shazeers_equation_9() -> None:
    """P(x, i) = Phi((clean_i - kth_excluding(noisy, k, i)) / std_i), written out with loops."""
    generator = torch.Generator().manual_seed(1)
    clean, eps = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    std = torch.rand(6, 5, generator=generator, dtype=torch.float64) + 0.1
    noisy = clean + eps * std
    for k in (1, 2, 4):
        load = [0.0] * 5
        for x in range(6):
            for i in range(5):
                others = sorted((float(noisy[x, j]) for j in range(5) if j != i), reverse=True)
                t = (float(clean[x, i]) - others[k - 1]) / float(std[x, i])
                load[i] += 0.5 * (1 + math.erf(t / math.sqrt(2)))
        torch.testing.assert_close(smooth_load(clean, noisy, std, k), torch.tensor(load, dtype=torch.float64))


def test_balance_loss_is_the_sum_of_two_coefficients() -> None:
    g = gate("learned")
    pooled = torch.randn(6, 1, 3, dtype=torch.float64)
    torch.manual_seed(3)
    _, loss = g(pooled)
    torch.manual_seed(3)
    clean = pooled[:, 0] @ g.weight[0]
    std = torch.nn.functional.softplus(pooled[:, 0] @ g.noise[0]) + 1e-2
    noisy = clean + torch.randn(6, 1, 4, dtype=torch.float64)[:, 0] * std
    importance = clean.softmax(-1).sum(0)
    load = smooth_load(clean, noisy, std, 1)
    expected = sum(v.var() / v.mean() ** 2 for v in (importance, load))
    torch.testing.assert_close(loss, expected)


def test_balance_loss_has_a_gradient_at_one_picture() -> None:
    g = gate("learned")
    _, loss = g(torch.randn(1, 1, 3, dtype=torch.float64))
    assert loss is not None
    weight, noise = torch.autograd.grad(loss, (g.weight, g.noise))
    assert weight.abs().sum() > 0 and noise.abs().sum() > 0


def test_one_expert_and_all_kept() -> None:
    assert float(coefficient_of_variation_squared(torch.tensor([3.0]))) == 0.0
    pooled = torch.randn(2, 1, 3, dtype=torch.float64)
    gates, loss = gate("learned", experts=1)(pooled)
    assert (gates == 1).all() and float(loss) == 0.0
    gates, loss = gate("learned", top_k=4)(pooled)
    assert (gates > 0).all() and loss.isfinite()
