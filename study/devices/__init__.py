"""Copies of tensors between the host and a device, and tables that stay on a device."""
