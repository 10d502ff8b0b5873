"""Robust ImageNet models with their names on RobustBench's leaderboard: network, input, and published accuracies.

The accuracies are from RobustBench's own records (Croce et al. 2021, arXiv:2010.09670), measured on 5,000 validation
images. Robust accuracy is the accuracy under AutoAttack with L-infinity 4/255. RobustBench distributes the weights
files. A spec names such a file with `weights: file:<path>`, and may give its SHA-256 with `sha256`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
_UNCHANGED = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}


@dataclass(frozen=True)
class RobustModel:
    """A robust model: `keys` are its keys in a spec (network and input), `clean` and `robust` its published accuracies.

    Both are top-1 accuracies in percent.
    """

    keys: Mapping[str, Any]
    clean: float
    robust: float

    @property
    def published(self) -> str:
        """The published accuracies as a text for the user."""
        return (
            f"published: clean {self.clean:g} %, robust {self.robust:g} % (RobustBench, AutoAttack, L-infinity 4/255)"
        )


def _model(network: str, clean: float, robust: float, **keys: Any) -> RobustModel:
    interpolation = "bicubic" if network.startswith("timm:") else "bilinear"
    given = {"network": network, "size": 224, "interpolation": interpolation, **_IMAGENET, **keys}
    return RobustModel(given, clean, robust)


_CONVNEXT_B, _CONVNEXT_L = "timm:convnext_base", "timm:convnext_large"
_SWIN_B, _SWIN_L = "timm:swin_base_patch4_window7_224", "timm:swin_large_patch4_window7_224"

ROBUST: Mapping[str, RobustModel] = {
    "Salman2020Do_R18": _model("torchvision:resnet18", 52.92, 25.32),
    "Salman2020Do_R50": _model("torchvision:resnet50", 64.02, 34.96),
    "Salman2020Do_50_2": _model("torchvision:wide_resnet50_2", 68.46, 38.14),
    "Engstrom2019Robustness": _model("torchvision:resnet50", 62.56, 29.22),
    "Wong2020Fast": _model("torchvision:resnet50", 55.62, 26.24, size=288),
    "Chen2024Data_WRN_50_2": _model("torchvision:wide_resnet50_2", 68.76, 40.60, **_UNCHANGED),
    "Liu2023Comprehensive_ConvNeXt-B": _model(_CONVNEXT_B, 76.02, 55.82),
    "Liu2023Comprehensive_ConvNeXt-L": _model(_CONVNEXT_L, 78.02, 58.48),
    "Liu2023Comprehensive_Swin-B": _model(_SWIN_B, 76.16, 56.16),
    "Liu2023Comprehensive_Swin-L": _model(_SWIN_L, 78.92, 59.56),
    "Mo2022When_Swin-B": _model(_SWIN_B, 74.66, 38.30, interpolation="bilinear"),
    "Mo2022When_ViT-B": _model("timm:vit_base_patch16_224", 68.38, 34.40, interpolation="bilinear"),
    "RodriguezMunoz2024Characterizing_Swin-B": _model(_SWIN_B, 77.76, 51.56),
    "RodriguezMunoz2024Characterizing_Swin-L": _model(_SWIN_L, 79.36, 53.82),
}
"""The robust models by name. RobustBench's other models are left out, because no supported zoo has their networks."""
