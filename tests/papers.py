"""Specs that plan every number of the three papers' own experiments: what published tables ask of a spec's attacks.

Never run. Models of which no weights are published are drawn at random.
"""

from __future__ import annotations

LIU = """
study: liu2017
images: {sample: foolbox, keep: correct-for-all}
models: {resnet152: {}, resnet101: {}, resnet50: {}, vgg16: {}, googlenet: {}}
attacks:
  optimization: {}
  small: {preset: optimization, learning_rate: 0.125}
  large: {preset: optimization, learning_rate: 40}
  ensemble: {preset: optimization-ensemble}
  fg: {}
  fgs: {}
  ensemble-fg: {preset: fg, budget: {rmsd: matched, to: ensemble, by: mean}}
  ensemble-fgs: {preset: fgs, budget: {rmsd: matched, to: ensemble, by: mean}}
  noise-5: {preset: gaussian-noise, start: {gaussian: 5}}
  noise-10: {preset: gaussian-noise, start: {gaussian: 10}}
  noise-15: {preset: gaussian-noise, start: {gaussian: 15}}
  noise-20: {preset: gaussian-noise, start: {gaussian: 20}}
  gaussian-noise: {}
  noise-30: {preset: gaussian-noise, start: {gaussian: 30}}
  noise-35: {preset: gaussian-noise, start: {gaussian: 35}}
  noise-40: {preset: gaussian-noise, start: {gaussian: 40}}
experiments:
  single:
    attacks: [optimization, fg, fgs]
    sources: each
    published: [
      liu2017:1A, liu2017:1B, liu2017:8, liu2017:9, liu2017:10, liu2017:19, liu2017:20, liu2017:26, liu2017:27,
      liu2017:7, liu2017:33]
  single-targeted:
    attacks: [optimization, fg]
    sources: each
    goal: targeted
    published: [liu2017:2, liu2017:12, liu2017:25]
  small-rate:
    attacks: small
    sources: each
    published: {tables: [liu2017:15, liu2017:16], attacks: {small: optimization}}
  large-rate:
    attacks: large
    sources: each
    goal: targeted
    published: {tables: [liu2017:17, liu2017:18], attacks: {large: optimization}}
  ensembles-targeted:
    attacks: [ensemble, ensemble-fg, ensemble-fgs]
    sources: leave-one-out
    goal: targeted
    published:
      tables: [liu2017:3, liu2017:13, liu2017:28, liu2017:29, liu2017:30, liu2017:31]
      attacks: {ensemble: optimization, ensemble-fg: fg, ensemble-fgs: fgs}
  ensembles:
    attacks: [ensemble, ensemble-fg, ensemble-fgs]
    sources: leave-one-out
    published:
      tables: [liu2017:4, liu2017:14, liu2017:21, liu2017:22, liu2017:23, liu2017:24]
      attacks: {ensemble: optimization, ensemble-fg: fg, ensemble-fgs: fgs}
  noise:
    attacks: [noise-5, noise-10, noise-15, noise-20, gaussian-noise, noise-30, noise-35, noise-40]
    sources: [resnet152]
    published:
      tables: liu2017:11
      attacks: {
        noise-5: gaussian-noise, noise-10: gaussian-noise, noise-15: gaussian-noise, noise-20: gaussian-noise,
        gaussian-noise: gaussian-noise, noise-30: gaussian-noise, noise-35: gaussian-noise, noise-40: gaussian-noise}
"""

SMOOTHED = """
study: smoothed2019
images: {sample: foolbox, keep: correct-for-all}
models: {
  resnet18: {}, resnet34: {}, resnet50: {}, resnet101: {}, resnet152: {}, vgg11_bn: {}, vgg13_bn: {}, vgg16_bn: {},
  vgg19_bn: {}, densenet121: {}, densenet161: {}, alexnet: {}}
attacks:
  fgsm: {epsilon: 15}
  igsm: {epsilon: 15, step_size: 5, steps: 5}
  igsm-100: {preset: igsm, epsilon: 15, step_size: 1, steps: 100}
  sg-igsm: {}
  mi: {epsilon: 15, step_size: 5, steps: 5}
  sg-mi: {}
  igsm-20: {preset: igsm, epsilon: 20, step_size: 15, steps: 20}
  sg-igsm-20: {preset: sg-igsm, epsilon: 20, step_size: 15, steps: 20}
  igsm-ensemble: {preset: igsm, epsilon: 20, step_size: 3, steps: 100}
  sg-igsm-ensemble: {preset: sg-igsm, epsilon: 20, step_size: 3, steps: 50}
experiments:
  table1:
    attacks: [fgsm, igsm]
    sources: {each: [resnet18, resnet101, vgg13_bn, vgg16_bn, densenet121, densenet161]}
    targets: [resnet18, resnet101, vgg13_bn, vgg16_bn, densenet121, densenet161]
    published: smoothed2019:1
  table3:
    attacks: [igsm-100, sg-igsm]
    sources: {each: [densenet121, resnet152, resnet34, vgg13_bn, vgg19_bn]}
    published: {tables: smoothed2019:3, attacks: {igsm-100: igsm}}
  table4:
    attacks: [igsm-20, sg-igsm-20]
    sources: [
      [densenet121, resnet101], [densenet121, resnet101, resnet18, resnet34],
      [densenet121, resnet18, resnet34, vgg11_bn, vgg13_bn]]
    targets: [resnet152, resnet50, vgg13_bn, vgg16_bn]
    goal: targeted
    published: {tables: [smoothed2019:4, smoothed2019:7], attacks: {igsm-20: igsm, sg-igsm-20: sg-igsm}}
  table5:
    attacks: [mi, sg-igsm, sg-mi]
    sources: {each: [resnet18, densenet121, vgg13_bn]}
    targets: [resnet18, densenet121, vgg13_bn]
    published: {tables: smoothed2019:5, attacks: {mi: migsm, sg-mi: sg-migsm}}
  table6:
    attacks: [igsm-ensemble, sg-igsm-ensemble]
    sources: [[resnet101, resnet18, resnet34], [densenet161, vgg11_bn], [alexnet, resnet34, vgg16_bn]]
    targets: [densenet121, resnet152, resnet50, vgg13_bn]
    published: {tables: smoothed2019:6, attacks: {igsm-ensemble: igsm, sg-igsm-ensemble: sg-igsm}}
"""

SMOOTHED_MNIST = """
study: smoothed2019-mnist
images: {sample: foolbox, keep: correct-for-all}
models:
  fnn_d0: {network: mnist_fnn0, weights: "random:1"}
  fnn_d2: {network: mnist_fnn2, weights: "random:1"}
  fnn_d4: {network: mnist_fnn4, weights: "random:1"}
  fnn_d8: {network: mnist_fnn8, weights: "random:1"}
attacks:
  fgsm: {epsilon: 40}
experiments:
  table2a: {attacks: fgsm, sources: each, published: "smoothed2019:2A"}
"""

SMOOTHED_CIFAR = """
study: smoothed2019-cifar
images: {sample: foolbox, keep: correct-for-all}
models:
  resnet20: {network: cifar_resnet20, weights: "random:1"}
  resnet44: {network: cifar_resnet44, weights: "random:1"}
  resnet56: {network: cifar_resnet56, weights: "random:1"}
  densenet: {network: "torchvision:densenet121", weights: "random:1"}
attacks:
  fgsm: {epsilon: 10}
experiments:
  table2b: {attacks: fgsm, sources: {each: [resnet20, resnet44, resnet56]}, published: "smoothed2019:2B"}
"""

SGM = """
study: sgm2020
seeds: [0, 1, 2, 3, 4]
images: {sample: foolbox, keep: correct-for-sources}
models:
  resnet18: {}
  resnet34: {}
  resnet50: {}
  resnet101: {}
  resnet152: {}
  densenet121: {}
  densenet169: {}
  densenet201: {}
  vgg19_bn: {}
  senet154: {}
  inceptionv3: {}
  inceptionv4: {}
  inceptionresnetv2: {}
  inceptionv3_ens3: inceptionv3_adv
  inceptionv3_ens4: inceptionv3_adv
  inceptionresnetv2_ens3: {}
attacks:
  igsm: {}
  sgm-half: {preset: sgm, skip_gradient: {gamma: 0.5}}
  igsm-20: {preset: igsm, steps: 20}
  ti-20: {preset: ti, steps: 20}
  mi-20: {preset: mi, steps: 20}
  di-20: {preset: di, steps: 20}
  sgm-20: {preset: sgm, steps: 20}
  ti+sgm-20: {preset: ti+sgm, steps: 20}
  di+sgm-20: {preset: di+sgm, steps: 20}
experiments:
  table1:
    attacks: [igsm, sgm-half]
    sources: {each: [
      resnet18, resnet34, resnet50, resnet101, resnet152, densenet121, densenet169, densenet201]}
    targets: inceptionv3
    published: {tables: "sgm2020:1", attacks: {igsm: pgd, sgm-half: sgm}}
  table2:
    attacks: [fgsm, fgsm+ti, fgsm+sgm]
    sources: {each: [resnet152, densenet201]}
    targets: [vgg19_bn, resnet152, densenet201, senet154, inceptionv3, inceptionv4, inceptionresnetv2]
    published: {tables: ["sgm2020:2", "sgm2020:8"], attacks: {fgsm+ti: ti, fgsm+sgm: sgm}}
  table3:
    attacks: [igsm, ti, mi, di, sgm]
    sources: {each: [resnet152, densenet201]}
    targets: [vgg19_bn, resnet152, densenet201, senet154, inceptionv3, inceptionv4, inceptionresnetv2]
    published: {tables: ["sgm2020:3", "sgm2020:8", "sgm2020:readme"], attacks: {igsm: pgd}}
  table4:
    attacks: [mi, mi+sgm, di, di+sgm, mi+di, mi+di+sgm]
    sources: [densenet201]
    targets: [vgg19_bn, resnet152, densenet201, senet154, inceptionv3, inceptionv4, inceptionresnetv2]
    published: "sgm2020:4"
  table5:
    attacks: [igsm-20, ti-20, mi-20, di-20, sgm-20, ti+sgm-20]
    sources: {each: [resnet152, densenet201]}
    targets: [inceptionv3_ens3, inceptionv3_ens4, inceptionresnetv2_ens3]
    published:
      tables: ["sgm2020:5", "sgm2020:8"]
      attacks: {igsm-20: pgd, ti-20: ti, mi-20: mi, di-20: di, sgm-20: sgm, ti+sgm-20: ti+sgm}
  table6:
    attacks: [igsm, ti, mi, di, sgm, di+sgm]
    sources: [[resnet34, resnet152, densenet201]]
    targets: [vgg19_bn, resnet152, densenet201, senet154, inceptionv3, inceptionv4, inceptionresnetv2]
    published: {tables: ["sgm2020:6", "sgm2020:9"], attacks: {igsm: pgd}}
  table7:
    attacks: [igsm-20, ti-20, mi-20, di-20, sgm-20, ti+sgm-20, di+sgm-20]
    sources: [[resnet34, resnet152, densenet201]]
    targets: [inceptionv3_ens3, inceptionv3_ens4, inceptionresnetv2_ens3]
    published:
      tables: ["sgm2020:7", "sgm2020:9"]
      attacks: {
        igsm-20: pgd, ti-20: ti, mi-20: mi, di-20: di, sgm-20: sgm, ti+sgm-20: ti+sgm, di+sgm-20: di+sgm}
"""

SPECS = {
    "liu2017": (LIU,),
    "smoothed2019": (SMOOTHED, SMOOTHED_MNIST, SMOOTHED_CIFAR),
    "sgm2020": (SGM,),
}
"""By paper, specs that have all of its tables between them."""
