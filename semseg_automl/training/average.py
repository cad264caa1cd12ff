"""The mean of several models' weights, and the score of a model that is given as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from semseg_automl.core.log import get_logger
from semseg_automl.models.devices import DeviceChoice, out_of_memory
from semseg_automl.training.fit import make_datasets, make_segmenter
from semseg_automl.training.job import Hooks, ModelState, TrainJob
from semseg_automl.training.validate import Validation, validate

_LOG = get_logger("training")


def average_models(models: Sequence[ModelState]) -> ModelState:
    """The mean, tensor by tensor, of models of one network (Wortsman et al., "Model soups", ICML 2022).

    Tensors that are not floating point are the first model's.
    """
    return ModelState(
        adapter=_mean([model.adapter for model in models]), head=_mean([model.head for model in models])
    )


def _mean(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    first = parts[0]
    return {
        name: torch.stack([part[name] for part in parts]).mean(0) if value.is_floating_point() else value
        for name, value in first.items()
    }


def same_weights(first: ModelState, second: ModelState) -> bool:
    """Whether two models of one network are equal, bit by bit."""
    pairs = ((first.adapter, second.adapter), (first.head, second.head))
    return all(torch.equal(value, new[name]) for old, new in pairs for name, value in old.items())


def score_model(job: TrainJob, hooks: Hooks) -> Validation | None:
    """Score ``job.init`` as a run of the job would score it, on the job's first device.

    None where memory is short: there is a model already, and this is only about a better word on it.
    """
    device = DeviceChoice(job.accelerator, job.device_ids[:1]).torch_device()
    try:
        return validate(
            make_segmenter(job).to(device),
            make_datasets(job)[1],
            eval_metric=job.eval_metric,
            precision=job.precision,
            mirror=job.tta,
            out_of_time=lambda: hooks.remaining() <= 0 or hooks.urgent(),
        )
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        _LOG.warning("Out of memory while scoring a model again: left out.")
        return None
