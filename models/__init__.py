"""Networks and experiments by paper, on the public API only. None is here yet."""
