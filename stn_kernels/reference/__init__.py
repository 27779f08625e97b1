"""Plain PyTorch: the specification of every op, and the fallback where no kernel exists."""
