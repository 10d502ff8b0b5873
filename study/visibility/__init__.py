"""How visible a perturbation is: measures of image quality between a clean image and its adversarial one."""
