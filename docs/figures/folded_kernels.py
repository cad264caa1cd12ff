"""One 3x3 kernel at four scales: written out (seen in its answer to a single pixel), and folded."""

import matplotlib.pyplot as plt
import torch
from torch.nn import functional as F

from semseg_automl.peft.fold import scale_matrix

kernel = torch.tensor([[0.0, 1.0, 2.0], [-1.0, 0.0, 1.0], [-2.0, -1.0, 0.0]], dtype=torch.float64)
pixel = torch.zeros(1, 1, 7, 7, dtype=torch.float64)
pixel[..., 3, 3] = 1
scales = (1, 2, 4, 8)
figure, axes = plt.subplots(2, len(scales), figsize=(9, 4.6), layout="constrained")
for column, scale in enumerate(scales):
    large = F.interpolate(pixel, scale_factor=float(scale), mode="bilinear") if scale > 1 else pixel
    answer = F.conv2d(F.pad(large, (1, 1, 1, 1), mode="replicate"), kernel[None, None])
    answer = F.interpolate(answer, size=(7, 7), mode="bilinear")[0, 0]
    fold = scale_matrix(scale)
    folded = fold @ kernel @ fold.T
    response = answer[2:5, 2:5].flip(0, 1)  # a convolution answers a pixel with its turned kernel
    elsewhere = answer.abs().sum() - response.abs().sum()
    assert torch.allclose(response, folded, atol=1e-12, rtol=0) and elsewhere < 1e-12
    for row, (values, name) in enumerate(((answer, "written out"), (folded, "folded"))):
        ax = axes[row, column]
        ax.imshow(values, cmap="PuOr", vmin=-2, vmax=2)
        ax.set_title(f"scale {scale}, {name}", fontsize=9)
        ax.set_xticks([])
        ax.set_yticks([])
    for y in range(3):
        for x in range(3):
            ink = "white" if abs(folded[y, x]) > 1.5 else "black"
            axes[1, column].text(x, y, f"{folded[y, x]:.2f}", color=ink, ha="center", va="center", fontsize=8)
plt.show()
