"""What processes that train together must agree on after each step, or they wait for each other for ever."""

from __future__ import annotations

import torch

VERDICTS = ("go on", "interrupted", "time", "pruned", "nan")
GO_ON, NAN = VERDICTS[0], VERDICTS[-1]


def agree(verdict: str, fraction: float, device: torch.device, world: int) -> tuple[str, float]:
    """Rank 0's verdict and fraction of the run, on every rank; the others' arguments don't count.

    One broadcast of two numbers. As rank 0 calls it after its validation, it is also where the
    others wait meanwhile.
    """
    if world == 1:
        return verdict, fraction
    message = torch.tensor([VERDICTS.index(verdict), fraction], dtype=torch.float64, device=device)
    torch.distributed.broadcast(message, src=0)
    number, shared = message.tolist()
    return VERDICTS[int(number)], shared
