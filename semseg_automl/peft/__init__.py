"""Parameter-efficient adapters: plain torch modules around frozen linear layers, one file per method."""
