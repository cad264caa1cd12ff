"""Loading a forged model: every checksum is right, something else is not; each fault has its own error."""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from semseg_automl import SemanticSegmentor
from semseg_automl.artifacts import read as reading
from semseg_automl.artifacts.files import no_unpickling
from semseg_automl.core.errors import (
    ArtifactError,
    BackboneError,
    ChecksumError,
    FormatError,
    ProbeError,
    TensorError,
    WeightsError,
)
from semseg_automl.core.hardware import Hardware
from semseg_automl.estimator import _manifest, _store
from semseg_automl.models.build import build_segmenter, stored_shapes
from semseg_automl.models.checkpoints import BACKBONES, tensor_sha256
from semseg_automl.models.weights_layout import expected_shapes
from semseg_automl.peft.conv_lora import ConvLoRALayer
from semseg_automl.peft.lora import LoRALayer
from semseg_automl.peft.registry import ADAPTERS
from tests.small_model import CONFIG, picture, reseal, save_small_model, version_of

Change = Callable[[dict[str, Any]], Any]


def _needs(manifest: dict[str, Any], backbone: str) -> None:
    """Say everywhere that the model needs another backbone."""
    manifest["backbone"] = {"name": backbone, "source": "x", "sha256": "0" * 64}
    manifest["config"]["backbone"] = backbone


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_small_model(tmp_path / "m")


def check(folder: Path, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        SemanticSegmentor.load(folder, verbosity=0)
    assert type(caught.value) is kind


def test_the_untouched_model_loads_and_sees_every_class(saved: Path) -> None:
    mask = SemanticSegmentor.load(saved, verbosity=0).predict(picture())
    share = np.array([(mask == value).mean() for value in (0, 3, 7)])
    assert share.sum() == 1 and share.min() > 0.03
    reseal(saved)
    assert np.array_equal(SemanticSegmentor.load(saved, verbosity=0).predict(picture()), mask)


def test_a_changed_byte_and_a_newer_format(saved: Path) -> None:
    path = version_of(saved) / "head.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    check(saved, ChecksumError, "changed after saving")
    reseal(saved, lambda m: m.update(format_version=2))
    check(saved, FormatError, "format version 2 is unknown")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("mask_tokens"), "missing: mask_tokens"),
        (lambda t: t.update(more=torch.zeros(1)), "unknown: more"),
        (
            lambda t: t.update(mask_tokens=torch.zeros(4, 64)),
            r"shape of mask_tokens: stored \[4, 64\], needed \[3, 64\]",
        ),
        (
            lambda t: t.update(mask_tokens=torch.zeros(3, 64, dtype=torch.int64)),
            "type of mask_tokens: stored 'I64'",
        ),
        (lambda t: t.update(more=torch.zeros(5_000_000)), "at most"),
    ],
    ids=["missing", "unknown", "shape", "type", "too large"],
)
def test_tensors_that_do_not_fit(
    saved: Path, change: Callable[[dict[str, torch.Tensor]], Any], message: str
) -> None:
    path = version_of(saved) / "head.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    reseal(saved)
    check(saved, TensorError, message)


def test_a_huge_declared_shape_takes_no_memory(saved: Path) -> None:
    path = version_of(saved) / "head.safetensors"
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].replace(b'"shape":[3,64]', b'"shape":[9999999999,9999999999]')
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
    reseal(saved)
    check(saved, TensorError, "9999999999")


@pytest.mark.parametrize("shapes", [True, False], ids=["with a header that fits", "of zeros"])
def test_a_huge_file_is_not_read(saved: Path, shapes: bool) -> None:
    """A hole of 64 GiB: reading it would fail, or take minutes."""
    path = version_of(saved) / "head.safetensors"
    if not shapes:
        path.write_bytes(b"")
    reseal(saved, lambda m: m["files"]["head.safetensors"].update(size=64 * 2**30))
    with (version_of(saved) / "head.safetensors").open("r+b") as stream:
        try:
            stream.truncate(64 * 2**30)
        except OSError as error:
            pytest.skip(f"this file system has no files with holes: {error}")
    check(saved, TensorError, "at most")


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda m: m["backbone"].update(name="sam_huge"), BackboneError, "does not have"),
        (lambda m: m["backbone"].update(name="/etc/passwd"), BackboneError, "does not have"),
        (lambda m: m["backbone"].update(name="mobile_sam"), BackboneError, "no valid sha256"),
        (lambda m: m["backbone"].update(sha256="0" * 64), BackboneError, "no valid sha256"),
        (
            lambda m: m["backbone"].update(name="timm:hf-hub:x/y", sha256="0" * 64),
            ArtifactError,
            "timm:hf-hub",
        ),
        (lambda m: m["config"].update(rank=4), TensorError, "shape of"),
        (lambda m: m["config"].update(rank=10**9), ArtifactError, "from 1 to 4096"),
        (lambda m: m["config"].update(rank=10**30), ArtifactError, "from 1 to 4096"),
        (lambda m: m["config"].update(num_experts=10**9), ArtifactError, "from 1 to 64"),
        (lambda m: m["config"].update(scales=[1, 10**9]), ArtifactError, "from 1 to 64"),
        (lambda m: m["config"].update(image_size=10**9), ArtifactError, "16384 pixels"),
        (lambda m: m["config"].update(image_size=[]), ArtifactError, "16384 pixels"),
        (lambda m: m["config"].update(adapter="__import__"), ArtifactError, "Unknown"),
        (lambda m: m["config"].update(adapter=["lora"]), ArtifactError, "can't be used"),
        (lambda m: m["config"].update(hidden=1), ArtifactError, "Unknown hyperparameter"),
        (lambda m: m["config"].update(backbone="mobile_sam"), ArtifactError, "config has the backbone"),
        (lambda m: m["label_map"].update(values=[0, 3]), ArtifactError, "one name per distinct value"),
        (lambda m: m["label_map"].update(values=[0, 3, 10**30]), ArtifactError, "no mask can have"),
        (lambda m: m["label_map"].update(names=5), ArtifactError, "can't be used"),
        (lambda m: m["label_map"].pop("ignore"), ArtifactError, "can't be used: 'ignore'"),
        (lambda m: m.update(scaling={"low": 2, "high": 1}), ArtifactError, "low < high"),
        (lambda m: m.update(mean=[0, 0, 0]), ArtifactError, "mean and std must be"),
        (lambda m: m["info"].update(image=3, tta="yes"), ArtifactError, "wrong form: image, tta"),
    ],
)
def test_a_manifest_that_can_not_be_meant(
    saved: Path, change: Change, kind: type[Exception], message: str
) -> None:
    reseal(saved, change)
    check(saved, kind, message)


def test_a_file_that_a_configuration_names_is_not_opened_for_a_trained_model(tmp_path: Path) -> None:
    """Only a training that starts anew reads ``side_checkpoint``."""
    os.mkdir(tmp_path / "side.safetensors")  # opening it would fail
    config = CONFIG.replace(adapter="lst", side_checkpoint=str(tmp_path / "side.safetensors"))
    stored_shapes(config, 3, "sam_tiny")
    build_segmenter(config, 3, trained=True)


def test_more_memory_than_is_free(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = Hardware(cores=1, memory=None, memory_available=2**29, disk_free=0)
    monkeypatch.setattr(_manifest, "detect", lambda: free)
    reseal(saved, lambda m: m["config"].update(rank=4096))
    check(saved, ArtifactError, r"takes about \d+\.\d GiB to load, 0\.5 GiB of memory are free")


def test_a_model_that_computes_something_else(saved: Path) -> None:
    path = version_of(saved) / "adapter.safetensors"
    save_file({name: 3 * tensor for name, tensor in load_file(path).items()}, path)
    reseal(saved)
    check(saved, ProbeError, "does not compute")


def test_a_backbone_that_is_absent(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEMSEG_AUTOML_WEIGHTS", raising=False)
    monkeypatch.setenv("SEMSEG_AUTOML_CACHE", str(tmp_path))
    stored = reading.read_model(saved)
    backbone = {"name": "sam_vit_b", "source": "x", "sha256": "0" * 64}
    stored = dataclasses.replace(stored, manifest=dataclasses.replace(stored.manifest, backbone=backbone))
    monkeypatch.setattr("semseg_automl.models.checkpoints.fetch", _refuse)
    with pytest.raises(BackboneError, match="No weights found") as caught:
        _store._backbone_of(stored)
    assert isinstance(caught.value, ArtifactError) and isinstance(caught.value, WeightsError)
    assert str(caught.value).startswith("The saved model's backbone")


def test_a_weight_file_that_a_pickle_names_is_tried_first(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of one's own, given as ``backbone="file"``, lie where no search would find them."""
    monkeypatch.delenv("SEMSEG_AUTOML_WEIGHTS", raising=False)
    monkeypatch.setenv("SEMSEG_AUTOML_CACHE", str(tmp_path))
    monkeypatch.setattr("semseg_automl.models.checkpoints.fetch", _refuse)
    tensors = {n: torch.zeros(s).half() for n, s in expected_shapes(BACKBONES["mobile_sam"]).items()}
    save_file(tensors, tmp_path / "mine.safetensors")
    stored = reading.read_model(saved)
    backbone = {"name": "mobile_sam", "source": "unregistered", "sha256": tensor_sha256(tensors)}
    stored = dataclasses.replace(stored, manifest=dataclasses.replace(stored.manifest, backbone=backbone))
    assert _store._backbone_of(stored, tmp_path / "mine.safetensors").path == tmp_path / "mine.safetensors"
    for file in (None, tmp_path / "gone.safetensors"):
        with pytest.raises(BackboneError, match="No weights found"):
            _store._backbone_of(stored, file)
    carried = dataclasses.replace(stored, backbone=tensors)
    assert _store._backbone_of(carried).source == "artifact"
    other = {n: t + 1 for n, t in tensors.items()}
    with pytest.raises(BackboneError, match="came with other weights"):
        _store._backbone_of(dataclasses.replace(stored, backbone=other))


def test_a_backbone_that_came_with_a_model_is_saved_with_it(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saving in place replaces the version that holds it, which may be the only copy."""
    monkeypatch.setattr(_store, "_probe", lambda _segmenter, _model: None)
    model = _store.read_trained(saved)
    for tensors, count in ((None, 0), ({"image_encoder.a": torch.ones(2)}, 1)):
        weights = dataclasses.replace(model.weights, tensors=tensors)
        _store.write(tmp_path, dataclasses.replace(model, weights=weights))
        assert len(list(tmp_path.glob("v-*/backbone.safetensors"))) == count


def _refuse(source: Any, folder: Path) -> Path:
    raise WeightsError(f"{source.location}: unreachable")


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize(
    "name", ["current.json", "fit_summary.json", "manifest.json", "head.safetensors", ""]
)
def test_links_are_refused(saved: Path, tmp_path: Path, name: str) -> None:
    version = version_of(saved)
    path = saved / name if (saved / name).is_file() else version / name
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    check(saved, ArtifactError, "is a link")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", ["fit_summary.json", "head.safetensors"])
def test_a_pipe_is_not_waited_for(saved: Path, name: str) -> None:
    path = saved / name if (saved / name).is_file() else version_of(saved) / name
    path.unlink()
    os.mkfifo(path)
    check(saved, ArtifactError, "no regular file")


def test_unpickling_is_refused_while_a_model_is_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that unpickled would be stopped at the first name, before anything runs."""
    bomb = pickle.dumps(io.BytesIO(b"x"))
    monkeypatch.setattr(reading, "read_tensors", lambda data, path, shapes: pickle.loads(bomb))
    check(saved, ArtifactError, "A pickle .* was met")
    assert pickle.loads(bomb).read() == b"x"  # afterwards all is as before


def test_other_threads_unpickle_as_ever() -> None:
    data, found = pickle.dumps(io.BytesIO(b"x")), []
    with no_unpickling():
        with pytest.raises(ArtifactError, match=r"_io\.BytesIO"):
            pickle.loads(data)
        thread = threading.Thread(target=lambda: found.append(pickle.loads(data)))
        thread.start()
        thread.join()
    assert len(found) == 1


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(("head", "qkv"), [("semantic", "fused"), ("mask_classification", "separate")])
def test_expected_shapes_are_those_of_the_network(adapter: str, head: str, qkv: str) -> None:
    separate = qkv if ADAPTERS[adapter].build in (LoRALayer, ConvLoRALayer) else "fused"
    config = CONFIG.replace(adapter=adapter, head=head, qkv=separate)
    built = build_segmenter(config, 3).trainable_state()
    found = tuple({name: tuple(t.shape) for name, t in part.items()} for part in built)
    assert stored_shapes(config, 3, "sam_tiny") == found
