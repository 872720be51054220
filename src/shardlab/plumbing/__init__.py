"""What the core stands on: devices, the world of ranks, what they agree on, and autograd's finer points."""
