"""Forward and backward passes of decoder layers in few operations, for training on a CPU."""
