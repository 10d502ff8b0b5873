"""What concerns the device that tensors are on: copies to it and from it, and tables that stay there."""
