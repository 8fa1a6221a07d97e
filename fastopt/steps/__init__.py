"""One step of an optimizer: gradients checked, the norm decided, arrays stepped, the step counted."""
