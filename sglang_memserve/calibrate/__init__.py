"""`memserve calibrate`: what the operators of a model cost on this machine's device."""
