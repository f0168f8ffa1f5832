"""Segmentation nets in plain torch, the folders they are kept in, and their training."""
