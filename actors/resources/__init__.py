"""Plans the workers that fit the machines: cores, GPUs, memory, and pixels in object stores."""
