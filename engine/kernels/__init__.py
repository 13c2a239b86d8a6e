"""Fast exact kernels: attention, dropout, and the output projection with its cross-entropy."""
