"""Segmentation metrics: from confusion matrices and histograms of a data set, and picture by picture."""
