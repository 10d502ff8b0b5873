"""Families of networks: which architectures are related, and which names in zoos mean the same architecture.

Adversarial images transfer better within a family than between families. A table of black-box targets therefore says
more if it leaves out targets of the source's family. A family is an architecture in all its sizes, versions and
trainings. For example, all ResNets are one family, including wide ResNets and ResNeXts. All plain vision transformers
are another family. Each family has a short name, such as `resnet`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from study.models.reference import Model

SAME_ARCHITECTURE = {
    # These entries map torchvision's names to timm's names.
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
    "vit_l_16": "vit_large_patch16_224",
    "vit_l_32": "vit_large_patch32_224",
    "vit_h_14": "vit_huge_patch14_224",
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin_s": "swin_small_patch4_window7_224",
    "swin_b": "swin_base_patch4_window7_224",
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "mobilenet_v3_small": "mobilenetv3_small_100",
    "mnasnet0_5": "mnasnet_050",
    "mnasnet0_75": "mnasnet_075",
    "mnasnet1_0": "mnasnet_100",
    # These are further names in timm for the same architectures. DeiT without its extra token is a ViT.
    "deit_tiny_patch16_224": "vit_tiny_patch16_224",
    "deit_small_patch16_224": "vit_small_patch16_224",
    "deit_base_patch16_224": "vit_base_patch16_224",
    "tf_efficientnet_b0": "efficientnet_b0",
    "tv_resnet34": "resnet34",
    "tv_resnet50": "resnet50",
    "tv_resnet101": "resnet101",
    "tv_resnet152": "resnet152",
    "tf_inception_v3": "inception_v3",
    "adv_inception_v3": "inception_v3",
    "ens_adv_inception_resnet_v2": "inception_resnet_v2",
    # These are pretrainedmodels' names.
    "inceptionv3": "inception_v3",
    "inceptionv4": "inception_v4",
    "inceptionresnetv2": "inception_resnet_v2",
    "senet154": "legacy_senet154",
    "se_resnet50": "legacy_seresnet50",
    "se_resnet101": "legacy_seresnet101",
    "se_resnet152": "legacy_seresnet152",
    "se_resnext50_32x4d": "legacy_seresnext50_32x4d",
    "se_resnext101_32x4d": "legacy_seresnext101_32x4d",
    "xception": "legacy_xception",
}
"""For architectures with several names, the name that comparisons use.

Many other architectures have the same name in torchvision and timm, and need no entry."""

_FAMILIES: tuple[tuple[str, str], ...] = (
    ("cnn", r"mnist_cnn"),
    ("fully connected", r"mnist_fnn"),
    ("efficientnet", r"efficientnet|tf_efficientnet|gc_efficientnet|mobilenet_edgetpu|cs3edgenet"),
    ("mobilenet", r"mobilenet|mnasnet|semnasnet|fbnet|spnasnet|lcnet|hardcorenas|ghostnet|tinynet|mixnet|tf_mixnet"),
    ("senet", r"legacy_se|senet|se_res|seresnet|seresnext|ecaresnet|skresnet|skresnext"),
    ("inception", r"inception|googlenet|xception|legacy_xception"),
    ("densenet", r"densenet|tv_densenet|virtual_dense"),
    ("vgg", r"vgg|repvgg"),
    ("squeezenet", r"squeezenet"),
    ("shufflenet", r"shufflenet"),
    ("convnext", r"convnext"),
    ("regnet", r"regnet"),
    ("nasnet", r"p?nasnet"),
    ("swin", r"swin"),
    ("beit", r"beit|eva"),
    ("mixer", r"mixer|gmixer|gmlp|resmlp"),
    ("pit", r"pit_"),
    ("visformer", r"visformer"),
    ("xcit", r"xcit"),
    ("cait", r"cait"),
    ("levit", r"levit"),
    ("tnt", r"tnt"),
    ("convit", r"convit"),
    ("pvt", r"pvt|twins"),
    ("mvit", r"mvit"),
    ("maxvit", r"maxvit|maxxvit|coatnet"),
    ("vit", r"vit_|deit|deit3|flexivit|mnist_vit|test_vit|samvit"),
    ("dpn", r"dpn"),
    ("resnet", r"resnet|resnext|wide_resnet|tv_resne|ig_resne|ssl_resne|swsl_resne|gluon_res|cifar_resnet|res2ne"
               r"|resnest|bat_resnext|test_resnet|wrn|nf_resnet"),
)  # fmt: skip
"""The name of each family, with a pattern for the beginning of its networks' names. The first match decides."""

_BEGINS = tuple((family, re.compile(rf"(?:{pattern})")) for family, pattern in _FAMILIES)


def architecture(name: str) -> str:
    """Return the name of a network's architecture, which is the same for all zoos and does not contain timm's tag.

    `name` is the network's name in its zoo.
    """
    bare = name.partition(".")[0].lower()
    return SAME_ARCHITECTURE.get(bare, bare)


def family(name: str) -> str:
    """Return the family of the network that a zoo calls `name`, such as `resnet`.

    A network that belongs to no family gets the name of its architecture.
    """
    bare = name.partition(".")[0].lower()
    return next((word for word, begins in _BEGINS if begins.match(bare)), architecture(bare))


def family_of(model: Model) -> str | None:
    """Return the family of a model: the key `family` in the spec, or else the family of the model's network.

    Without this key, return None for a service, a model without its own network, and the user's own code.
    """
    if model.family is not None:
        return model.family
    if model.network is None or model.zoo == "python":
        return None
    return family(model.name)
