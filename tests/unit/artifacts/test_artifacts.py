"""A saved model: the same bytes for the same content, and nothing read that is not right."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save

from semseg_automl.artifacts import write as writing
from semseg_automl.artifacts.layout import holds_model
from semseg_automl.artifacts.probe import check_probe, make_probe
from semseg_automl.artifacts.read import read_model
from semseg_automl.artifacts.schema import Manifest
from semseg_automl.artifacts.write import write_model
from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import ArtifactError

LABELS = {"problem_type": "binary", "names": ["background", "a|b"], "values": [0, 255], "ignore": None}


def manifest(**changes):
    values = dict(
        label_map=LABELS,
        config=RunConfig().to_json(),
        metrics={"iou": 0.5, "ber": math.nan},
        backbone={"name": "sam_tiny", "source": "fixed seed", "sha256": ""},
        threshold=0.4,
    )
    return Manifest(**{**values, **changes})


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"b": torch.randn(3, 4, generator=generator), "a": torch.arange(3)}


@pytest.fixture
def saved(tmp_path):
    write_model(tmp_path / "m", manifest(), tensors(), tensors(1), {"image": torch.zeros(3, 4, 4)})
    return tmp_path / "m"


def version_of(folder):
    return folder / json.loads((folder / "current.json").read_text())["version"]


def forge(folder, change):
    """Change the manifest and make every checksum above it right again."""
    old = version_of(folder)
    values = json.loads((old / "manifest.json").read_text())
    change(values)
    data = json.dumps(values).encode()
    digest = hashlib.sha256(data).hexdigest()
    (old / "manifest.json").write_bytes(data)
    old.rename(folder / f"v-{digest[:16]}")
    pointer = json.loads((folder / "current.json").read_text())
    (folder / "current.json").write_text(
        json.dumps(pointer | {"version": f"v-{digest[:16]}", "manifest_sha256": digest})
    )


class TestRoundTrip:
    def test_everything_comes_back(self, saved):
        found = read_model(saved)
        assert holds_model(saved)
        assert all(torch.equal(found.adapter[n], t) for n, t in tensors().items())
        assert all(torch.equal(found.head[n], t) for n, t in tensors(1).items())
        assert found.probe is not None and found.backbone is None
        expected = manifest()
        for name in (
            "label_map",
            "config",
            "backbone",
            "threshold",
            "versions",
            "mean",
            "scaling",
            "channels",
        ):
            assert getattr(found.manifest, name) == getattr(expected, name), name
        assert math.isnan(found.manifest.metrics["ber"]) and found.manifest.metrics["iou"] == 0.5
        assert RunConfig.from_json(found.manifest.config) == RunConfig()

    def test_same_content_same_bytes(self, saved, tmp_path):
        shuffled = dict(reversed(tensors().items()))
        write_model(tmp_path / "again", manifest(), shuffled, tensors(1), {"image": torch.zeros(3, 4, 4)})
        for path in (p for p in saved.rglob("*") if p.is_file()):
            assert (tmp_path / "again" / path.relative_to(saved)).read_bytes() == path.read_bytes()

    def test_views_and_shared_memory(self, tmp_path):
        base = torch.arange(12.0).reshape(3, 4)
        write_model(tmp_path, manifest(), {"t": base.T, "row": base[1]}, {"t": base.T})
        found = read_model(tmp_path)
        assert torch.equal(found.adapter["t"], base.T) and torch.equal(found.adapter["row"], base[1])

    def test_numpy_scalars_in_metrics(self, tmp_path):
        import numpy as np

        write_model(tmp_path, manifest(metrics={"iou": np.float32(0.5)}, info={"n": np.int64(3)}), {}, {})
        assert read_model(tmp_path).manifest.info == {"n": 3}

    def test_overwriting_leaves_one_version_and_other_files(self, saved):
        (saved / "notes.txt").write_text("mine")
        write_model(saved, manifest(threshold=0.7), tensors(2), tensors(3))
        assert read_model(saved).manifest.threshold == 0.7
        assert sorted(p.name for p in saved.iterdir()) == sorted(
            ["README.md", "current.json", "notes.txt", version_of(saved).name]
        )

    def test_saving_again_mends_a_damaged_version(self, saved):
        (version_of(saved) / "head.safetensors").write_bytes(b"")
        write_model(saved, manifest(), tensors(), tensors(1), {"image": torch.zeros(3, 4, 4)})
        read_model(saved)

    def test_backbone_is_halved_only_where_nothing_is_lost(self, tmp_path):
        exact, inexact = torch.tensor([0.5, 2.0]), torch.tensor([0.1, 1e-9])
        write_model(tmp_path, manifest(), {}, {}, backbone={"exact": exact, "inexact": inexact})
        found = read_model(tmp_path).backbone
        assert found["exact"].dtype == torch.float16 and torch.equal(found["exact"].float(), exact)
        assert torch.equal(found["inexact"], inexact)

    def test_card(self, saved):
        text = (saved / "README.md").read_text()
        assert (
            "| 1 | a\\|b | 255 |" in text and "| iou | 0.5000 |" in text and "| ber | not defined |" in text
        )
        assert "not included" in text and "| rank | 8 |" in text

    def test_fresh_process_needs_no_lightning_optuna_or_pandas(self, saved):
        code = (
            "import sys; from semseg_automl.artifacts.read import read_model; read_model(sys.argv[1]);"
            "raise SystemExit(sum(m in sys.modules for m in ('lightning', 'optuna', 'pandas', 'sklearn')))"
        )
        assert subprocess.run([sys.executable, "-c", code, str(saved)], check=False).returncode == 0


class TestRefused:
    def check(self, folder, message):
        with pytest.raises(ArtifactError, match=message):
            read_model(folder)

    def test_no_folder_or_no_model(self, tmp_path):
        self.check(tmp_path / "nowhere", "no such folder")
        self.check(tmp_path, "no current.json")

    @pytest.mark.parametrize(
        "name", ["head.safetensors", "adapter.safetensors", "probe.safetensors", "manifest.json"]
    )
    def test_missing_file(self, saved, name):
        (version_of(saved) / name).unlink()
        self.check(saved, "missing")

    @pytest.mark.parametrize("name", ["head.safetensors", "manifest.json"])
    def test_one_flipped_bit(self, saved, name):
        path = version_of(saved) / name
        data = bytearray(path.read_bytes())
        data[-2] ^= 1
        path.write_bytes(data)
        self.check(saved, "changed after saving")

    def test_cut_short_and_too_long(self, saved):
        path = version_of(saved) / "head.safetensors"
        data = path.read_bytes()
        path.write_bytes(data[:-1])
        self.check(saved, "cut short")
        path.write_bytes(data + b"x")
        self.check(saved, "at most")

    def test_another_version_folder(self, saved):
        for name in ("../elsewhere", "v-../../../etc", "/etc", "v-0123", 7, None):
            pointer = json.loads((saved / "current.json").read_text())
            (saved / "current.json").write_text(json.dumps(pointer | {"version": name}))
            self.check(saved, "hexadecimal")

    @pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"format": NaN}', b"\xff", b'{"a": 1, "a": 2}'])
    def test_pointer_that_is_no_json_object(self, saved, data):
        (saved / "current.json").write_bytes(data)
        self.check(saved, "JSON|format")

    def test_pointer_of_a_newer_format(self, saved):
        pointer = json.loads((saved / "current.json").read_text())
        (saved / "current.json").write_text(json.dumps(pointer | {"format_version": 2}))
        self.check(saved, "Upgrade")

    @pytest.mark.parametrize(
        "change, message",
        [
            (lambda m: m.update(format_version=2), "format version 2 is unknown"),
            (lambda m: m.update(format="other"), "not a manifest"),
            (lambda m: m.update(more=1), "unknown fields: more"),
            (lambda m: m.pop("label_map"), "fields: label_map"),
            (lambda m: m.update(threshold="0.5"), "wrong form: threshold"),
            (lambda m: m.update(mean=[1, 2]), "wrong form: mean"),
            (lambda m: m.update(channels=17), "wrong form: channels"),
            (lambda m: m["backbone"].pop("sha256"), "wrong form: backbone"),
            (lambda m: m["files"].pop("head.safetensors"), "missing .'head"),
            (
                lambda m: m["files"].update({"../x.safetensors": {"size": 1, "sha256": "0" * 64}}),
                "not allowed",
            ),
            (lambda m: m["files"].update({"x.py": {"size": 1, "sha256": "0" * 64}}), "not allowed"),
            (lambda m: m["files"]["head.safetensors"].update(size=-1), "size in bytes"),
            (lambda m: m["files"]["head.safetensors"].update(size=True), "size in bytes"),
        ],
    )
    def test_forged_manifest(self, saved, change, message):
        forge(saved, change)
        self.check(saved, message)

    def test_pickle_under_the_right_name(self, saved):
        import io

        stream = io.BytesIO()
        torch.save({"a": torch.zeros(1)}, stream)
        data = stream.getvalue()
        (version_of(saved) / "head.safetensors").write_bytes(data)
        entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        forge(saved, lambda m: m["files"].update({"head.safetensors": entry}))
        self.check(saved, "not a safetensors file")

    @pytest.mark.skipif(os.name == "nt", reason="links need rights there")
    def test_links(self, saved, tmp_path):
        path = version_of(saved) / "head.safetensors"
        path.rename(tmp_path / "outside")
        path.symlink_to(tmp_path / "outside")
        self.check(saved, "is a link")


class TestWriting:
    def test_values_that_are_not_finite(self, tmp_path):
        with pytest.raises(ArtifactError, match="not finite"):
            write_model(tmp_path, manifest(), {"a": torch.tensor([math.nan])}, {})
        assert not holds_model(tmp_path)

    def test_values_that_json_cant_hold(self, tmp_path):
        with pytest.raises(ArtifactError, match="JSON"):
            write_model(tmp_path, manifest(info={"x": object()}), {}, {})

    def test_folder_that_cant_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ArtifactError, match="can't be saved"):
            write_model(tmp_path / "file", manifest(), {}, {})

    @pytest.mark.parametrize("step", ["_place", "replace_file"])
    def test_crash_leaves_the_old_model(self, saved, monkeypatch, step):
        def crash(*args):
            raise OSError("no space left")

        monkeypatch.setattr(writing, step, crash)
        with pytest.raises(ArtifactError, match="no space left"):
            write_model(saved, manifest(threshold=0.9), tensors(5), {})
        assert read_model(saved).manifest.threshold == 0.4

    def test_no_leftovers(self, saved):
        assert not [p for p in saved.rglob(".*")]

    def test_manifest_with_other_files_is_refilled(self, tmp_path):
        write_model(tmp_path, dataclasses.replace(manifest(), files={"x": None}), {}, {})
        assert set(read_model(tmp_path).manifest.files) == {"adapter.safetensors", "head.safetensors"}


class TestProbe:
    def model(self, seed=0):
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Conv2d(3, 2, 4, stride=4), torch.nn.Dropout(0.9))

    def test_same_model_agrees_exactly_and_mode_is_kept(self):
        model = self.model().train()
        assert check_probe(model, make_probe(model)) == 0.0
        assert model.training

    def test_stored_and_read_back(self, tmp_path):
        model = self.model()
        write_model(tmp_path, manifest(), {}, {}, make_probe(model))
        assert check_probe(model, read_model(tmp_path).probe) == 0.0

    def test_another_model(self):
        with pytest.raises(ArtifactError, match="does not compute"):
            check_probe(self.model(1), make_probe(self.model()))
        probe = make_probe(self.model())
        with pytest.raises(ArtifactError, match="outputs of shape"):
            check_probe(self.model(), probe | {"logits": probe["logits"][:1]})
        with pytest.raises(ArtifactError, match="must hold"):
            check_probe(self.model(), {"image": probe["image"]})
        with pytest.raises(ArtifactError, match="does not compute"):
            check_probe(self.model(), probe | {"logits": probe["logits"] * math.nan})


def test_header_is_plain_safetensors(saved):
    assert (version_of(saved) / "adapter.safetensors").read_bytes() == save(tensors())
