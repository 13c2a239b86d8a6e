"""Attention, dropout and the output projection, each by the fastest exact method of its device."""
