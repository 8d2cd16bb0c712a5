"""Companion package of the book *Keeping Neurons Alive*."""
