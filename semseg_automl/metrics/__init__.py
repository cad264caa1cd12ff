"""Dataset-level segmentation metrics from confusion matrices and probability histograms."""
