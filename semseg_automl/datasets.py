"""Tables of pictures and masks, from folders, from annotations, or made up (see ``data.datasets``)."""

from semseg_automl.data.datasets import (
    from_coco,
    from_folders,
    from_yolo,
    make_aerial,
    make_cells,
    make_textures,
)

__all__ = ["from_coco", "from_folders", "from_yolo", "make_aerial", "make_cells", "make_textures"]
