"""One file an op: schema, fake, autograd formula and the public function."""
